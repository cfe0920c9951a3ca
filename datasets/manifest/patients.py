"""Patients of a manifest: ids that may mean one patient, and patients with more than one diagnosis."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from tissuebench.datasets.manifest.rows import ManifestRow
from tissuebench.errors import DataError


def patient_notes(path: Path, rows: Sequence[ManifestRow]) -> list[str]:
    """Return a note on patient ids that look alike, and on patients whose slides have different diagnoses.

    Raises:
        DataError: ids that look alike are in different parts of the split, which may share a patient.
    """
    parts: dict[str, set[str]] = defaultdict(set)
    diagnoses: dict[str, set[tuple[str, ...]]] = defaultdict(set)
    for row in rows:
        parts[row.patient_id].add(row.split)
        if row.diagnosis:
            diagnoses[row.patient_id].add(row.diagnosis)
    alike: dict[str, list[str]] = defaultdict(list)
    for patient in parts:
        alike[_compared(patient)].append(patient)
    notes = []
    for patients in (found for found in alike.values() if len(found) > 1):
        named = " and ".join(map(repr, patients))
        if len(set.union(*(parts[patient] for patient in patients))) > 1:
            raise DataError(
                f"{path}: patients {named} differ only by capitals or leading zeros and are in different parts of the "
                "split; write the id in one way if they are one patient, else rename one"
            )
        notes.append(
            f"{path}: patients {named} differ only by capitals or leading zeros and count as {len(patients)} patients"
        )
    for patient, found in diagnoses.items():
        if len(found) > 1:
            listed = ", ".join(repr("; ".join(one)) for one in sorted(found))
            notes.append(
                f"{path}: slides of patient {patient!r} have different diagnoses ({listed}); each slide keeps its own"
            )
    return notes


def _compared(patient: str) -> str:
    """Return an id as it is compared: without capitals, without leading zeros, and 7 for the 7.0 of a spreadsheet."""
    return re.sub(r"(?<!\d)0+(?=\d)", "", re.sub(r"^(\d+)\.0+$", r"\1", patient.casefold()))
