"""Slides that are one picture under two ids, which leak between the parts of a split, and annotations of two slides."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path

from tissuebench.datasets.manifest import BadRow, ManifestRow

_SHOWN = 4


def judge_copies(rows: Sequence[ManifestRow], picture: Mapping[str, Hashable], what: str) -> tuple[list[BadRow], str]:
    """Return the slides that must be left out since they show one picture, and a note on the others that do.

    Copies of one patient, and copies that the manifest puts into one part, are only noted. Copies of several patients
    are left out, all of them, if they are or may come to be in different parts: which patient it is, nobody can tell.

    Args:
        rows: slides; those without a picture are not compared.
        picture: what identifies the picture, by slide id.
        what: what two slides share, for messages ("the same file").

    Returns:
        Rows with their reason, and a note, empty if there is nothing to note.
    """
    groups: dict[Hashable, list[ManifestRow]] = defaultdict(list)
    for row in rows:
        if row.slide_id in picture:
            groups[picture[row.slide_id]].append(row)
    bad: list[BadRow] = []
    noted: list[str] = []
    for group in groups.values():
        patients, parts = {row.patient_id for row in group}, {row.split for row in group}
        if len(group) == 1:
            continue
        if len(patients) == 1 or (len(parts) == 1 and parts != {""}):
            noted.append(_listed([row.slide_id for row in group]))
            continue
        for row in group:
            others = _listed([f"{other.slide_id} ({_place(other)})" for other in group if other is not row])
            reason = (
                f"{row.image}: {row.slide_id} ({_place(row)}) is {what} as {others}; one slide has one patient: "
                "correct 'patient_id', or remove the rows that are wrong"
            )
            bad.append(BadRow(row.slide_id, reason, (row.image,)))
    note = f"slides that are {what} and count as several: {'; '.join(noted)}" if noted else ""
    return bad, note


def shared_annotations(rows: Sequence[ManifestRow]) -> str:
    """Return a note on annotations that several slides name, empty if there are none: one of them has wrong labels."""
    slides: dict[Path, list[str]] = defaultdict(list)
    for row in rows:
        if row.annotation is not None:
            slides[row.annotation].append(row.slide_id)
    shared = [f"{path.name} by {_listed(names)}" for path, names in slides.items() if len(names) > 1]
    return f"annotations named by several slides: {'; '.join(shared)}" if shared else ""


def _place(row: ManifestRow) -> str:
    return f"patient {row.patient_id}" + (f", {row.split}" if row.split else "")


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
