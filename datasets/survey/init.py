"""Start of a dataset from a folder of slides: writes its manifest and description, or adds what is new to them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tissuebench.datasets.annotations.class_names import ClassNames
from tissuebench.datasets.catalog.folder import recipe
from tissuebench.datasets.documents import safe_id
from tissuebench.datasets.manifest import OPTIONAL, REQUIRED, file_named, read_table
from tissuebench.datasets.readers import companions
from tissuebench.datasets.survey.contents import Contents, FoundSlide, survey
from tissuebench.datasets.survey.known import Known, read_known
from tissuebench.datasets.survey.pairing import proposed_ids, proposed_patient
from tissuebench.datasets.survey.proposal import (
    COLUMNS,
    ProposedClass,
    append,
    classes_of_values,
    description,
    manifest_text,
    proposed_classes,
    write_new,
)
from tissuebench.errors import DataError

MANIFEST, DESCRIPTION = "manifest.csv", "dataset.yaml"
_ALWAYS = ("slide_id", "patient_id", "image", "annotation", "diagnosis", "mpp")
_SHOWN = 5


@dataclass(frozen=True, slots=True)
class Started:
    """Lines on the files that ``start_dataset`` wrote, and on all that the user should look at before going on."""

    written: tuple[str, ...]
    to_check: tuple[str, ...]


def start_dataset(
    root: Path, table: Path | None = None, progress: Callable[[str, int, int], None] = lambda what, done, total: None
) -> Started:
    """Write ``manifest.csv`` and ``dataset.yaml`` for the slides below a folder.

    Files that exist keep every line: slides that no row names are added as rows, classes that the description does not
    know are only told.

    Args:
        root: the folder.
        table: a group's own table of patients and diagnoses, see ``read_known``.
        progress: called with the activity, the number done and the total.

    Raises:
        DataError: no such folder, no slides in it, an unusable table, or a manifest that cannot be read.
    """
    found = survey(root, progress)
    known = Known({}, ()) if table is None else read_known(table, [slide.path for slide in found.slides])
    classes, names = proposed_classes(found.classes)
    values: dict[int, str] = {}
    if found.values and not classes:
        classes, values = classes_of_values(found.values)
    written = [_write_manifest(root, found, known)]
    to_check = list(_to_check(root, found, known))
    if (root / DESCRIPTION).is_file():
        missing = _unknown_classes(root / DESCRIPTION, found)
        if missing:
            to_check.append(
                f"{root / DESCRIPTION}: does not know {_listed(missing)}, which annotations name; add them to "
                "'classes' or 'class_names'"
            )
        written.append(f"{root / DESCRIPTION}: kept as it is")
    else:
        name = safe_id(root.resolve().name) or "slides"
        write_new(root / DESCRIPTION, description(name, classes, names, values, found.slides, _diagnoses(known)))
        written.append(f"{root / DESCRIPTION}: {_counted(classes)}")
    return Started(tuple(written), tuple(to_check))


def _write_manifest(root: Path, found: Contents, known: Known) -> str:
    path = root / MANIFEST
    before = read_table(path, REQUIRED, OPTIONAL) if path.is_file() else None
    cells = [] if before is None else [line.cells for line in before.lines]
    named = {_plain(file_named(root, row["image"], str(path))) for row in cells if row["image"]}
    new = [slide for slide in found.slides if named.isdisjoint(map(_plain, (slide.path, *companions(slide.path))))]
    ids = proposed_ids([slide.path for slide in new], root, [row["slide_id"] for row in cells])
    rows = [_row(root, slide, ids[slide.path], found, known) for slide in new]
    annotated = sum(bool(row["annotation"]) for row in rows)
    if before is None:
        columns = [name for name in COLUMNS if name in _ALWAYS or any(row.get(name) for row in rows)]
        write_new(path, manifest_text(rows, columns, ",", head=True))
        return f"{path}: {_slides(len(rows))}, {annotated} with annotations"
    if not rows:
        return f"{path}: kept as it is; every slide has its row"
    lost = sorted({name for row in rows for name, value in row.items() if value} - set(before.columns))
    if lost:
        raise DataError(f"{path}: has no column {lost[0]!r}, which the new rows need; add it to the first line")
    append(path, manifest_text(rows, before.columns, before.separator, head=False))
    return f"{path}: {_slides(len(rows))} added, {annotated} with annotations; the rows that were there are kept"


def _row(root: Path, slide: FoundSlide, slide_id: str, found: Contents, known: Known) -> dict[str, str]:
    annotation = found.pairs.of_slide.get(slide.path)
    said = {name: value for name, value in known.of_slide.get(slide.path, {}).items() if value}
    if "patient_id" in said:
        said["patient_id"] = safe_id(said["patient_id"]) or slide_id
    return {
        "slide_id": slide_id,
        "patient_id": proposed_patient(slide.path, slide_id),
        "image": slide.path.relative_to(root).as_posix(),
        "annotation": "" if annotation is None else annotation.relative_to(root).as_posix(),
        **said,
    }


def _diagnoses(known: Known) -> list[str]:
    said = (part.strip() for cells in known.of_slide.values() for part in cells.get("diagnosis", "").split(";"))
    return sorted({name for name in said if name})


def _to_check(root: Path, found: Contents, known: Known) -> Iterator[str]:
    if not any("patient_id" in cells for cells in known.of_slide.values()):
        yield "patient_id: slides of one patient must have the same one, or they are trained on and tested on"
    unknown = [slide.path.name for slide in found.slides if slide.mpp is None and not slide.problem]
    if unknown and len(unknown) < len(found.slides):
        yield f"mpp: {_listed(unknown)} do not say their resolution; fill the column mpp"
    for slide in found.slides:
        if slide.problem:
            yield slide.problem
    for path, candidates in found.pairs.several.items():
        names = [one.relative_to(root).as_posix() for one in candidates]
        yield f"annotation: {path.name} has several, {_listed(names)}; write the right one into its row"
    if found.pairs.left:
        names = [one.relative_to(root).as_posix() for one in found.pairs.left]
        yield f"annotation: no slide has the name of {_listed(names)}"
    if known.not_found:
        yield f"table: no slide has the name of {_listed(known.not_found)}"
    without = [slide.path.name for slide in found.slides if slide.path not in known.of_slide]
    if known.of_slide and without:
        yield f"table: has no row for {_listed(without)}"
    yield from found.unread
    if found.unnamed:
        areas = "1 annotated area has" if found.unnamed == 1 else f"{found.unnamed} annotated areas have"
        yield f"{areas} no class and will be left out"


def _unknown_classes(path: Path, found: Contents) -> list[str]:
    """Return the names in the annotations that a description does not mention; none if it cannot be read."""
    try:
        described = recipe(path.parent)
    except DataError:
        return []
    names = ClassNames(path, described.class_map, None, "", described.class_names)
    return [one.name for one in found.classes if not names.knows(one.name)]


def _plain(path: Path) -> Path:
    return Path(os.path.normpath(path.absolute()))


def _counted(classes: Sequence[ProposedClass]) -> str:
    return f"classes {_listed([one.name for one in classes])}" if classes else "no class was found: name them"


def _slides(count: int) -> str:
    return "1 slide" if count == 1 else f"{count} slides"


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
