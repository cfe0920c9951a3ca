"""The table predictions.csv: one row per predicted slide, made from the record that each prediction leaves."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tissuebench.common.files import text_written_aside
from tissuebench.common.hashing import Json
from tissuebench.errors import DataError

RECORD, SUMMARY = "prediction.json", "predictions.csv"


def read_prediction(folder: Path) -> dict[str, Any]:
    """Return the record of the prediction in ``folder``.

    Raises:
        DataError: there is none, or it is damaged.
    """
    path = folder / RECORD
    try:
        record: dict[str, Any] = json.loads(path.read_bytes())
        _row(record)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(
            f"{path}: not a usable record of a prediction ({error}); predict the slide again with --overwrite"
        ) from None
    return record


def write_summary(path: Path, records: Sequence[Mapping[str, Json]]) -> None:
    """Write one row per record: slide, trial, call by area share, tissue, area and share of each class, warnings.

    Columns: ``share/CLASS`` and ``mm2/CLASS`` repeat areas.csv, ``case/DIAGNOSIS`` is the share of each diagnosis in
    the area of all, over tissue. A column that a slide does not have is empty.
    """
    rows = [_row(record) for record in records]
    columns = dict.fromkeys(column for row in rows for column in row)
    columns["warnings"] = columns.pop("warnings", None)  # the last one, also if slides have different classes
    with text_written_aside(path) as file:
        writer = csv.DictWriter(file, list(columns), restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def _row(record: Mapping[str, Any]) -> dict[str, str]:
    case, mpp = record["case"], record["mpp"]
    tissue_mm2 = None if mpp is None else record["tissue_pixels"] * mpp**2 / 1e6
    row = {
        "slide": str(record["slide"]["file"]),
        "trial": str(record["trial"]["id"]),
        "call": "" if case is None else str(case["call"]),
        "tissue_mm2": _number(tissue_mm2),
    }
    row |= {f"share/{one['name']}": _number(one["share"]) for one in record["classes"]}
    row |= {f"mm2/{one['name']}": _number(one["area_mm2"]) for one in record["classes"]}
    row |= {f"case/{name}": _number(share) for name, share in ({} if case is None else case["shares"]).items()}
    return {**row, "warnings": str(len(record["warnings"]))}


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.6g}"
