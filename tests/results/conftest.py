"""Small results made by hand or by a generator, for the tests of this folder."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tissuebench.common.hashing import content_hash
from tissuebench.results.records.trial_result import TrialResult

CLASSES = ("tissue", "HCC", "CCA")
DIAGNOSES = {"HCC": ("HCC",), "CCA": ("CCA",)}  # declared order is not alphabetical


def trial(
    method="supervised",
    budget="masks:3p",
    replicate=0,
    seed=0,
    *,
    counts=None,
    boundaries=None,
    rng=None,
    skill=0.5,
    n_patients=6,
    slides_each=2,
    dataset="toy",
    minutes=24.0,
    classes=CLASSES,
    diagnoses=DIAGNOSES,
    calibration=None,
    areas=None,
    slide_diagnoses=None,
    patient_ids=None,
    split="split-1",
):
    """A result; without ``counts`` a random one whose diagonal grows with ``skill``."""
    if patient_ids is None:
        patient_ids = tuple(f"p{i}" for i in range(n_patients) for _ in range(slides_each))
    n, k = len(patient_ids), len(classes)
    if counts is None:
        counts = rng.integers(0, 100, size=(n, k, k)) + (np.eye(k) * 300 * skill).astype(np.int64)
    if boundaries is None:
        matched = np.diagonal(counts, axis1=-2, axis2=-1)
        boundaries = np.stack([np.sum(counts, -1), matched, np.sum(counts, -2), matched], -1)
    if calibration is None:
        counts = np.asarray(counts, dtype=np.int64)
        pixels, right = counts.sum((-2, -1)), np.diagonal(counts, axis1=-2, axis2=-1).sum(-1)
        calibration = np.zeros((n, 15, 3))
        calibration[:, 12] = np.stack([pixels, 0.83 * pixels, right], -1)
    if slide_diagnoses is None:
        names = list(diagnoses) or [""]
        order = {name: i for i, name in enumerate(dict.fromkeys(patient_ids))}
        slide_diagnoses = tuple(names[order[name] % len(names)] for name in patient_ids)
    identity = {"dataset": dataset, "split": split, "method": method, "budget": budget, "at": [replicate, seed]}
    return TrialResult(
        trial_id=content_hash(identity)[:16],
        dataset=dataset,
        method=method,
        budget=budget,
        minutes=minutes,
        replicate=replicate,
        seed=seed,
        classes=tuple(classes),
        colors=tuple((40 * i % 256, 90, 255 - 40 * i % 256) for i in range(k)),
        diagnoses=diagnoses,
        patient_ids=tuple(patient_ids),
        slide_ids=tuple(f"s{i}" for i in range(n)),
        slide_diagnoses=tuple(slide_diagnoses),
        counts=np.asarray(counts, dtype=np.int64),
        boundaries=np.asarray(boundaries, dtype=np.int64),
        calibration=np.asarray(calibration, dtype=np.float64),
        slide_seconds=np.linspace(0.1, 0.2, n),
        identity=identity,
        environment={"python": "3.11"},
        seconds={"fit": 1.5, "evaluate": 0.5},
        compute={"steps": 10, "samples": 80},
        areas=None if areas is None else np.asarray(areas, dtype=np.int64),
    )


@pytest.fixture(scope="session")
def make_trial():
    return trial


@pytest.fixture(scope="session")
def golden():
    return Path(__file__).resolve().parents[1] / "golden"
