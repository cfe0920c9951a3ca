"""One finished trial as one parquet file: one row per test slide, everything else in the file's metadata."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from tissuebench.common.files import write_aside
from tissuebench.common.hashing import Json, canonical_json
from tissuebench.common.protocol import PROTOCOL_VERSION
from tissuebench.errors import DataError
from tissuebench.results.records.former_names import present_name
from tissuebench.results.records.object_metrics import SUMS
from tissuebench.results.records.object_sums import ObjectSums
from tissuebench.results.records.pseudo_mask_quality import PseudoQuality

SCHEMA_VERSION = 4
METADATA_KEY = b"tissuebench"
CALIBRATION_BINS = 15  # of equal width, 0 to 1
TEST = "test"
MIXED = ";"  # joins the names of a mixed diagnosis
_TRIAL_ID = re.compile(r"[0-9a-f]{8,64}")

SCHEMA = pa.schema(
    [
        pa.field(name, kind, nullable=False)
        for name, kind in [
            ("trial_id", pa.string()),
            ("dataset", pa.string()),
            ("method", pa.string()),
            ("budget", pa.string()),
            ("minutes", pa.float64()),
            ("replicate", pa.int64()),
            ("seed", pa.int64()),
            ("everything", pa.bool_()),
            ("patient_id", pa.string()),
            ("slide_id", pa.string()),
            ("diagnosis", pa.string()),
            ("counts", pa.list_(pa.int64())),
            ("boundaries", pa.list_(pa.int64())),
            ("calibration", pa.list_(pa.float64())),
            ("areas", pa.list_(pa.int64())),
            ("seconds", pa.float64()),
        ]
    ]
)
_PER_TRIAL = SCHEMA.names[:8]
# Only of results with objects, so that the files of all others are what they were before there were any.
_OBJECTS = pa.field("objects", pa.list_(pa.float64()), nullable=False)


def check_trial_id(trial_id: str) -> str:
    """Return the id after checking that it is safe as a file name.

    Raises:
        DataError: the id is not 8 to 64 lower-case hexadecimal digits.
    """
    if not _TRIAL_ID.fullmatch(trial_id):
        raise DataError(f"trial id {trial_id!r}: expected 8 to 64 lower-case hexadecimal digits")
    return trial_id


def part_of(identity: Mapping[str, Json]) -> str:
    """Return the part of the split that a trial of this identity was scored on."""
    evaluation = identity.get("evaluation")
    return str(evaluation.get("part", TEST)) if isinstance(evaluation, Mapping) else TEST


def method_of(variant: str) -> str:
    """Return the method of a variant, whose name has its settings in brackets.

    Examples:
        >>> method_of("mean_teacher[decay=0.95]")
        'mean_teacher'
    """
    return variant.partition("[")[0]


@dataclass(frozen=True, eq=False)
class SlideCounts:
    """Counts of one test slide: over its annotated pixels, and over its tissue.

    Attributes:
        patient_id: the unit of every split and of every interval.
        slide_id: unique within a trial.
        diagnosis: ``""`` if unknown; names joined with ``;`` if mixed.
        counts: (K, K) int64, ``counts[truth, predicted]``, in pixels.
        boundaries: (K, 4) int64 pixels: true boundary, its matched part, predicted boundary, its matched part.
        calibration: (``CALIBRATION_BINS``, 3) float64, by the probability of the predicted class: pixels, sum of these
            probabilities, correct pixels.
        seconds: time to predict and count the slide.
        areas: (K,) int64 pixels of tissue that are predicted as each class; all 0 if the slide has no single diagnosis.
            None: the predicted pixels of ``counts``, as if exactly the tissue were annotated.
    """

    patient_id: str
    slide_id: str
    diagnosis: str
    counts: npt.NDArray[np.int64]
    boundaries: npt.NDArray[np.int64]
    calibration: npt.NDArray[np.float64]
    seconds: float
    areas: npt.NDArray[np.int64] | None = None


@dataclass(frozen=True, eq=False)
class TrialResult:
    """Result of one finished trial.

    Attributes:
        budget: as written in a plan: ``masks:3p``, ``masks:25%``, ``masks:all``, ``minutes:60``.
        minutes: cost of the budget in annotator minutes.
        classes: K names, in the order of the axes of ``counts``.
        colors: RGB colour of each class.
        diagnoses: the diagnosis-dependent classes that each diagnosis allows, in declared order. May be empty.
        patient_ids: one per slide, as are ``slide_ids`` and ``slide_diagnoses``.
        counts: (S, K, K) int64 pixels, ``counts[slide, truth, predicted]``.
        boundaries: (S, K, 4) int64 pixels of each class's boundary: true, matched, predicted, matched.
        calibration: (S, ``CALIBRATION_BINS``, 3) float64, see ``SlideCounts``.
        slide_seconds: (S,) time to predict and count each slide.
        identity: everything that was hashed into the trial id (dataset, split, budget hashes, config...).
        seconds: wall time of ``fit`` and ``evaluate``.
        compute: optimiser ``steps``, ``annotated_steps`` (those that learn from masks) and ``samples`` seen, share of
            the fit spent ``waiting`` for data, ``peak_memory`` in bytes; ``steps/NAME`` and so on for each earlier
            stage, with its own measurements.
        pseudo_masks: quality of the pseudo-masks of training tiles against withheld masks, by the name of each stage
            that annotates. A diagnostic, never used in training; empty where there is nothing to compare.
        areas: (S, K) int64 pixels, see ``SlideCounts``; by default the predicted pixels of ``counts``.
        everything: whether the budget bought all labels for sale, so that there is no draw and ``replicate`` is 0; by
            default whether it says so, as ``masks:all`` does.
        objects: sums over the objects of each slide; None if the plan names no class of objects.

    Raises:
        DataError: a field contradicts another or is out of range; the message names trial, slide and field.
    """

    trial_id: str
    dataset: str
    method: str
    budget: str
    minutes: float
    replicate: int
    seed: int
    classes: tuple[str, ...]
    colors: tuple[tuple[int, int, int], ...]
    diagnoses: Mapping[str, tuple[str, ...]]
    patient_ids: tuple[str, ...]
    slide_ids: tuple[str, ...]
    slide_diagnoses: tuple[str, ...]
    counts: npt.NDArray[np.int64]
    boundaries: npt.NDArray[np.int64]
    calibration: npt.NDArray[np.float64]
    slide_seconds: npt.NDArray[np.float64]
    identity: Mapping[str, Json]
    environment: Mapping[str, Json]
    seconds: Mapping[str, float]
    compute: Mapping[str, float]
    pseudo_masks: Mapping[str, PseudoQuality] = field(default_factory=dict)
    areas: npt.NDArray[np.int64] = None  # type: ignore[assignment]  # filled in below
    everything: bool = None  # type: ignore[assignment]  # likewise
    objects: ObjectSums | None = None

    def __post_init__(self) -> None:
        if self.areas is None:
            object.__setattr__(self, "areas", self.counts.sum(axis=-2))
        if self.everything is None:
            object.__setattr__(self, "everything", self.budget.endswith(":all"))
        check_trial_id(self.trial_id)
        n, k = len(self.slide_ids), len(self.classes)
        allowed = {name for names in self.diagnoses.values() for name in names}
        checks = {
            "has no test slides": n == 0,
            "names a class twice, or none": k == 0 or len(set(self.classes)) != k,
            "names a slide twice": len(set(self.slide_ids)) != n,
            "has columns of different lengths": not n
            == len(self.patient_ids)
            == len(self.slide_diagnoses)
            == len(self.slide_seconds),
            "has colours for other than its classes": len(self.colors) != k
            or any(len(color) != 3 or not all(0 <= part <= 255 for part in color) for color in self.colors),
            "has a slide without a patient": not all(self.patient_ids),
            f"has minutes {self.minutes}: expected a finite number >= 0": not (0 <= self.minutes < math.inf),
            f"has counts of shape {self.counts.shape}: expected {(n, k, k)}": self.counts.shape != (n, k, k),
            f"has counts of type {self.counts.dtype}: expected int64": self.counts.dtype != np.int64,
            "has negative counts": self.counts.size > 0 and int(self.counts.min()) < 0,
            f"has boundaries of shape {self.boundaries.shape}: expected {(n, k, 4)}": self.boundaries.shape
            != (n, k, 4),
            f"has boundaries of type {self.boundaries.dtype}: expected int64": self.boundaries.dtype != np.int64,
            "has boundaries that match more than there is": _more_matched_than_there(self.boundaries),
            f"has calibration of shape {self.calibration.shape}: expected {(n, CALIBRATION_BINS, 3)}": (
                self.calibration.shape != (n, CALIBRATION_BINS, 3)
            ),
            "has calibration that is not of its annotated pixels": not _of_these_pixels(self.calibration, self.counts),
            f"has areas of shape {self.areas.shape}: expected {(n, k)}": self.areas.shape != (n, k),
            f"has areas of type {self.areas.dtype}: expected int64": self.areas.dtype != np.int64,
            "has negative areas": self.areas.size > 0 and int(self.areas.min()) < 0,
            f"has diagnoses that allow classes it does not have: {sorted(allowed - set(self.classes))}": bool(
                allowed - set(self.classes)
            ),
            "has pseudo-masks of other classes": any(one.counts.shape[1] != k for one in self.pseudo_masks.values()),
        }
        if self.objects is not None and (complaint := self.objects.complaint(n, self.classes)):
            checks[complaint] = True
        for complaint, wrong in checks.items():
            if wrong:
                raise DataError(f"result of trial {self.trial_id} {complaint}")
        for slide, diagnosis in zip(self.slide_ids, self.slide_diagnoses, strict=True):
            if self.diagnoses and diagnosis and MIXED not in diagnosis and diagnosis not in self.diagnoses:
                raise DataError(
                    f"result of trial {self.trial_id}: slide {slide!r} has diagnosis {diagnosis!r}, "
                    f"the dataset declares {', '.join(self.diagnoses)}"
                )

    @staticmethod
    def columns(
        slides: Iterable[SlideCounts],
    ) -> dict[str, Any]:
        """Convert rows to the fields of a result that have one entry per slide, in the order given."""
        rows = list(slides)
        if not rows:
            raise DataError("a result needs at least one test slide")
        if len({row.counts.shape for row in rows}) != 1:
            raise DataError("slides of one result have counts of different shapes")
        return {
            "patient_ids": tuple(row.patient_id for row in rows),
            "slide_ids": tuple(row.slide_id for row in rows),
            "slide_diagnoses": tuple(row.diagnosis for row in rows),
            "counts": np.stack([row.counts for row in rows]).astype(np.int64, casting="safe"),
            "boundaries": np.stack([row.boundaries for row in rows]).astype(np.int64, casting="safe"),
            "calibration": np.stack([row.calibration for row in rows]).astype(np.float64, casting="safe"),
            "slide_seconds": np.array([row.seconds for row in rows], dtype=np.float64),
            "areas": np.stack([row.counts.sum(0) if row.areas is None else row.areas for row in rows]).astype(
                np.int64, casting="safe"
            ),
        }

    def write(self, path: Path) -> None:
        """Write the parquet file atomically: to a temporary file that is then renamed."""
        n = len(self.slide_ids)
        same = {name: [getattr(self, name)] * n for name in _PER_TRIAL}
        per_slide = {
            "patient_id": list(self.patient_ids),
            "slide_id": list(self.slide_ids),
            "diagnosis": list(self.slide_diagnoses),
            "counts": self.counts.reshape(n, -1).tolist(),
            "boundaries": self.boundaries.reshape(n, -1).tolist(),
            "calibration": self.calibration.reshape(n, -1).tolist(),
            "areas": self.areas.tolist(),
            "seconds": self.slide_seconds.tolist(),
        }
        schema = SCHEMA
        if self.objects is not None:
            per_slide["objects"] = self.objects.sums.reshape(n, -1).tolist()
            schema = schema.append(_OBJECTS)
        schema = schema.with_metadata({METADATA_KEY: canonical_json(self._metadata()).encode()})
        sink = pa.BufferOutputStream()
        pq.write_table(pa.table({**same, **per_slide}, schema=schema), sink, write_page_checksum=True)
        write_aside(path, sink.getvalue().to_pybytes())

    def _metadata(self) -> dict[str, Json]:
        metadata: dict[str, Json] = {
            "schema_version": SCHEMA_VERSION,
            "trial_id": self.trial_id,
            "identity": self.identity,
            "classes": list(self.classes),
            "colors": [list(color) for color in self.colors],
            "diagnoses": {name: list(classes) for name, classes in self.diagnoses.items()},
            "diagnosis_order": list(self.diagnoses),  # canonical JSON sorts keys, but ties are broken by declared order
            "environment": self.environment,
            "seconds": self.seconds,
            "compute": self.compute,
        }
        if self.pseudo_masks:
            metadata["pseudo_masks"] = {stage: one.to_json() for stage, one in self.pseudo_masks.items()}
        if self.objects is not None:
            metadata["objects"] = self.objects.header()
        return metadata

    @classmethod
    def read(cls, path: Path) -> TrialResult:
        """Read the result in ``path``.

        Raises:
            DataError: the file is missing, damaged, foreign, or of another schema version.
        """
        if not path.is_file():
            raise DataError(f"{path}: no such result")
        try:
            with pq.ParquetFile(path, page_checksum_verification=True) as file:
                table = file.read(use_threads=False)  # small files: starting threads costs more than they save
            return _from_table(cls, table)
        except (pa.ArrowException, OSError, ValueError, KeyError, TypeError, AttributeError, DataError) as error:
            reason = " ".join(str(error).split()) or type(error).__name__
            raise DataError(f"{path}: not a usable result ({reason}); delete it and run its plan again") from error


def is_outdated(path: Path) -> bool:
    """Whether an earlier release wrote the result: in another schema, or by a protocol that would now differ.

    False for a file that is not a result at all, which ``TrialResult.read`` reports.
    """
    try:
        metadata = pq.read_schema(path).metadata or {}
        meta: dict[str, Any] = json.loads(metadata[METADATA_KEY])
        protocol = meta["identity"].get("protocol", PROTOCOL_VERSION)
        return bool(meta["schema_version"] < SCHEMA_VERSION or protocol < PROTOCOL_VERSION)
    except (pa.ArrowException, OSError, ValueError, KeyError, TypeError, AttributeError):
        return False


def _from_table(cls: type[TrialResult], table: pa.Table) -> TrialResult:
    metadata = table.schema.metadata or {}
    if METADATA_KEY not in metadata:
        raise ValueError("it was not written by tissuebench")
    meta: dict[str, Any] = json.loads(metadata[METADATA_KEY])
    if meta["schema_version"] != SCHEMA_VERSION:
        raise ValueError(f"schema version {meta['schema_version']}, this release reads {SCHEMA_VERSION}")
    header = meta.get("objects")
    if not table.schema.equals(SCHEMA if header is None else SCHEMA.append(_OBJECTS)):
        raise ValueError("its columns are not those of a result")
    same = {name: table.column(name).unique().to_pylist() for name in _PER_TRIAL}
    if any(len(values) != 1 for values in same.values()):
        raise ValueError("its rows are not of exactly one trial")
    one = {name: values[0] for name, values in same.items()}
    if one["trial_id"] != meta["trial_id"]:
        raise ValueError("rows and metadata are of different trials")
    one["method"] = present_name(one["method"], meta["identity"])
    k = len(meta["classes"])
    objects = None
    if header is not None:
        rows = _matrices(table, "objects", len(header["classes"]), len(SUMS))
        objects = ObjectSums(tuple(header["classes"]), header["unit"], rows)
    return cls(
        **one,
        classes=tuple(meta["classes"]),
        colors=tuple((red, green, blue) for red, green, blue in meta["colors"]),
        diagnoses={name: tuple(meta["diagnoses"][name]) for name in meta["diagnosis_order"]},
        patient_ids=tuple(table.column("patient_id").to_pylist()),
        slide_ids=tuple(table.column("slide_id").to_pylist()),
        slide_diagnoses=tuple(table.column("diagnosis").to_pylist()),
        counts=_matrices(table, "counts", k, k).astype(np.int64, casting="safe"),
        boundaries=_matrices(table, "boundaries", k, 4).astype(np.int64, casting="safe"),
        calibration=_matrices(table, "calibration", CALIBRATION_BINS, 3),
        areas=_matrices(table, "areas", 1, k)[:, 0].astype(np.int64, casting="safe"),
        slide_seconds=np.array(table.column("seconds").to_pylist(), dtype=np.float64),
        identity=meta["identity"],
        environment=meta["environment"],
        seconds=meta["seconds"],
        compute=meta["compute"],
        pseudo_masks={stage: PseudoQuality.from_json(one) for stage, one in meta.get("pseudo_masks", {}).items()},
        objects=objects,
    )


def _matrices(table: pa.Table, name: str, rows: int, columns: int) -> npt.NDArray[Any]:
    """Return a column of row-major lists as an array (S, rows, columns)."""
    lists = table.column(name).combine_chunks()
    if set(np.diff(np.from_dlpack(lists.offsets))) != {rows * columns}:  # its own to_numpy would import pandas
        raise ValueError(f"its {name} are not {rows} x {columns}")
    return np.array(np.from_dlpack(lists.flatten())).reshape(-1, rows, columns)


def _more_matched_than_there(boundaries: npt.NDArray[np.int64]) -> bool:
    there, matched = boundaries[..., 0::2], boundaries[..., 1::2]
    return there.shape == matched.shape and bool((matched > there).any() or (matched < 0).any())


def _of_these_pixels(calibration: npt.NDArray[np.float64], counts: npt.NDArray[np.int64]) -> bool:
    """Whether each slide's bins add up to its annotated and its correct pixels, with finite confidence."""
    if calibration.shape[0] != counts.shape[0] or calibration.shape[1:] != (CALIBRATION_BINS, 3) or counts.ndim != 3:
        return True  # reported by another check
    pixels, right = counts.sum((1, 2)), np.diagonal(counts, axis1=1, axis2=2).sum(-1)
    found = calibration.sum(1)
    return bool(
        np.isfinite(calibration).all()
        and (calibration >= 0).all()
        and np.array_equal(found[:, 0], pixels)
        and np.array_equal(found[:, 2], right)
    )
