"""The synthetic cohort: its patients, their diagnoses and splits, and the random numbers of each patient."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from tissuebench.common.hashing import derive_seed
from tissuebench.errors import ConfigError

CLASS_NAMES = ("glass", "stroma", "normal_gland", "lymphocytes", "tumour_a", "tumour_b")
GENERATOR_VERSION = "1"
MIN_SIZE_PX = 256


class Diagnosis(StrEnum):
    """Slide-level label; the value is the one used in the manifest."""

    A = "tumour A"
    B = "tumour B"


class CohortSplit(StrEnum):
    """Parts of the official split of the cohort."""

    TRAIN = "train"
    VAL = "val"
    TEST = "test"


@dataclass(frozen=True)
class SyntheticConfig:
    """Settings of the cohort: the number of patients in each split, and the size of their slides.

    Attributes:
        n_train: patients (one slide each) in the split "train"; likewise ``n_val`` and ``n_test``.
        size_px: edge of the square slide at level 0; even, at least 256.
        mpp: micrometres per pixel at level 0; the size of the anatomy in micrometres does not depend on it.
        seed: seed of the cohort; another seed gives other patients.
    """

    n_train: int = 24
    n_val: int = 6
    n_test: int = 16
    size_px: int = 1536
    mpp: float = 0.5
    seed: int = 0

    def __post_init__(self) -> None:
        if min(self.n_train, self.n_val, self.n_test) < 0:
            raise ConfigError("synthetic: n_train, n_val and n_test cannot be negative")
        if self.size_px < MIN_SIZE_PX or self.size_px % 2:
            raise ConfigError(f"synthetic: size_px is {self.size_px}; give an even number of at least {MIN_SIZE_PX}")
        if not 0.1 <= self.mpp <= 2.0:
            raise ConfigError(f"synthetic: mpp is {self.mpp}; give a value from 0.1 to 2.0 micrometres a pixel")


@dataclass(frozen=True)
class Patient:
    """One patient with one slide, every pixel of which is determined by ``index`` and the cohort's seed."""

    index: int
    diagnosis: Diagnosis
    split: CohortSplit

    @property
    def patient_id(self) -> str:
        """Identifier of the patient: P01, P02, ..."""
        return f"P{self.index + 1:02d}"

    @property
    def slide_id(self) -> str:
        """Identifier of the slide: S01, S02, ..."""
        return f"S{self.index + 1:02d}"


def diagnosis_of(index: int) -> Diagnosis:
    """Return a diagnosis; A and B alternate, so consecutive patients are balanced and none depends on another."""
    return Diagnosis.B if index % 2 else Diagnosis.A


def cohort(config: SyntheticConfig) -> tuple[Patient, ...]:
    """Return all patients: train first, then val, then test."""
    splits = (
        [CohortSplit.TRAIN] * config.n_train + [CohortSplit.VAL] * config.n_val + [CohortSplit.TEST] * config.n_test
    )
    return tuple(Patient(i, diagnosis_of(i), split) for i, split in enumerate(splits))


def stream(seed: int, index: int, purpose: str) -> np.random.Generator:
    """Return one patient's generator for one purpose ("traits", "anatomy", ...), independent of all others."""
    return np.random.default_rng(derive_seed("synthetic", GENERATOR_VERSION, seed, index, purpose))
