"""Manifest and description proposed for a folder of slides: new files, or rows added to a manifest that exists."""

from __future__ import annotations

import codecs
import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tissuebench.common.files import write_aside
from tissuebench.datasets.survey.contents import FoundClass, FoundSlide

COLUMNS = ("slide_id", "patient_id", "image", "annotation", "diagnosis", "split", "mpp")
_PALETTE = (
    (240, 150, 180), (200, 40, 40), (80, 160, 90), (60, 70, 160), (240, 140, 20), (140, 80, 180), (0, 150, 170),
    (160, 120, 60), (230, 200, 60), (90, 90, 90), (250, 110, 170), (20, 110, 60),
)  # fmt: skip
_REST = "other"
_REST_COLOR = (225, 225, 225)


@dataclass(frozen=True, slots=True)
class ProposedClass:
    """Class of the description: its name and colour, and a comment on where it was found."""

    name: str
    color: tuple[int, int, int]
    comment: str


def proposed_classes(found: Sequence[FoundClass]) -> tuple[list[ProposedClass], dict[str, str | None]]:
    """Return the classes, largest area first, and the table of names that stand for them or for nothing.

    Names that differ in capitals or blanks only are one class, by the most frequent spelling. Names with a star, which
    QuPath gives to regions that are to be ignored, are left out. If there is only one class, a second is proposed for
    what lies beside it, as a dataset needs two.
    """
    spellings: dict[str, list[FoundClass]] = {}
    names: dict[str, str | None] = {}
    for one in found:
        if one.name.endswith("*"):
            names[one.name] = None
        else:
            spellings.setdefault(" ".join(one.name.split()).casefold(), []).append(one)
    classes: list[ProposedClass] = []
    for same in sorted(spellings.values(), key=lambda same: -sum(one.area for one in same)):
        common = max(same, key=lambda one: one.count)
        name = " ".join(common.name.split())
        names |= {one.name: name for one in same if one.name != name}
        count, n_slides = sum(one.count for one in same), len({slide for one in same for slide in one.slides})
        comment = f"{count} areas on {n_slides} slides"
        classes.append(ProposedClass(name, common.color or _PALETTE[len(classes) % len(_PALETTE)], comment))
    if len(classes) == 1:
        comment = f"a dataset needs two classes: what is not {classes[0].name}? Rename it, and annotate it"
        classes.append(ProposedClass(_REST, _REST_COLOR, comment))
    return classes, names


def classes_of_values(values: Mapping[int, int]) -> tuple[list[ProposedClass], dict[int, str]]:
    """Return a class for each value of the label images, to be renamed, and the table of values.

    The table is empty where the values are 0, 1, 2, ... and need none.
    """
    total = sum(values.values())
    classes = [
        ProposedClass(
            f"value {value}",
            _PALETTE[number % len(_PALETTE)],
            f"{values[value] / total:.1%} of the pixels of the masks: name it, here and below",
        )
        for number, value in enumerate(sorted(values))
    ]
    in_order = sorted(values) == list(range(len(values)))
    return classes, {} if in_order else {value: one.name for value, one in zip(sorted(values), classes, strict=True)}


def description(
    name: str,
    classes: Sequence[ProposedClass],
    names: Mapping[str, str | None],
    values: Mapping[int, str],
    slides: Sequence[FoundSlide],
    diagnoses: Sequence[str] = (),
) -> str:
    """Return the text of ``dataset.yaml``, with comments; strings are quoted, so that YAML reads them as such."""
    known = sorted({slide.mpp for slide in slides if slide.mpp is not None})
    unknown = sum(slide.mpp is None for slide in slides)
    if known:
        listed = ", ".join(f"{mpp:.4g}" for mpp in known[:5]) + (", ..." if len(known) > 5 else "")
        missing = f"; {unknown} do not say theirs: fill the manifest's column mpp" if unknown else ""
        mpp = f"mpp: {known[-1]:.4g}   # of the tiles, µm per pixel; the slides have {listed}{missing}"
    else:
        mpp = "# mpp: 0.5   # no slide says its resolution: fill the manifest's column mpp, and this line"
    lines = [
        "# Proposed from the files of this folder: change what is wrong. Keys: docs/slides.md",
        f"name: {_quoted(name)}   # in tables, and wherever a command asks for a dataset",
        mpp,
        "tile_px: 256   # edge of a tile: choose it so that a tile shows enough to name its tissue",
        "classes:   # in the order of label values; colours are red, green, blue",
        *(f"  {_quoted(one.name)}: {list(one.color)}   # {one.comment}" for one in classes),
    ]
    if not classes:
        lines[-1] += ", as in\n#  tumour: [200, 40, 40]\n#  stroma: [240, 150, 180]"
    if names:
        lines.append("class_names:   # names in the annotations that stand for a class, or for nothing (null)")
        lines += [f"  {_quoted(said)}: {'null' if meant is None else _quoted(meant)}" for said, meant in names.items()]
    if values:
        lines.append("mask_values:   # what the values of the masks stand for; null: not annotated")
        lines += [f"  {value}: {_quoted(meant)}" for value, meant in values.items()]
    what = "classes that each diagnosis allows, among those that a diagnosis can exclude"
    if diagnoses:
        lines += [f"diagnoses:   # {what}", *(f"  {_quoted(name)}: []" for name in diagnoses)]
    else:
        lines += [f"# diagnoses:   # {what}", *(f"#   diagnosis {letter}: [tumour {letter}]" for letter in "AB")]
    return "\n".join(lines) + "\n"


def manifest_text(rows: Sequence[Mapping[str, str]], columns: Sequence[str], delimiter: str, head: bool) -> str:
    """Return rows of a manifest as CSV, with or without the line of columns."""
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, restval="", extrasaction="ignore", delimiter=delimiter, lineterminator="\n")
    if head:
        writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def write_new(path: Path, text: str) -> None:
    """Write a file that does not exist yet, in UTF-8."""
    write_aside(path, text.encode())


def append(path: Path, text: str) -> None:
    """Add lines to a text file in its own encoding; what it holds is kept, and it is whole at any moment."""
    before = path.read_bytes()
    encoding = {codecs.BOM_UTF16_LE: "utf-16-le", codecs.BOM_UTF16_BE: "utf-16-be"}.get(before[:2], "utf-8")
    ends = before.endswith(("\n".encode(encoding), "\r".encode(encoding)))
    write_aside(path, before + ("" if ends else "\n").encode(encoding) + text.encode(encoding))


def _quoted(text: str) -> str:
    """Return a YAML string; JSON's are."""
    return json.dumps(text, ensure_ascii=False)
