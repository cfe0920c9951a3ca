"""Patient-disjoint splits, stored as files: patients for training, validation and testing."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np

from tissuebench.common.hashing import Json, content_hash, derive_seed
from tissuebench.datasets.documents import read_hashed_json, write_hashed_json
from tissuebench.datasets.manifest import PARTS
from tissuebench.errors import DataError


@dataclass(frozen=True, slots=True)
class Split:
    """Patients of each part, disjoint, each sorted.

    Raises:
        DataError: a patient is in two parts.

    Examples:
        >>> from tissuebench.datasets.splits import random_split
        >>> split = random_split("mine", {f"p{n}": "A" for n in range(10)}, seed=0)
        >>> [len(split.patients(part)) for part in ("train", "val", "test")]
        [6, 1, 3]
    """

    name: str
    parts: Mapping[str, tuple[str, ...]]

    def __post_init__(self) -> None:
        where: dict[str, str] = {}
        for part in PARTS:
            for patient in self.parts.get(part, ()):
                if patient in where:
                    raise DataError(
                        f"split {self.name!r}: patient {patient!r} is in both {where[patient]!r} and {part!r}; "
                        "a patient belongs to one part"
                    )
                where[patient] = part

    def patients(self, part: str) -> tuple[str, ...]:
        """Return the patients of ``train``, ``val`` or ``test``."""
        return self.parts.get(part, ())

    @property
    def sha256(self) -> str:
        """Hash of the content, as stored in the file and in every result."""
        return content_hash(self._document())

    def _document(self) -> dict[str, Json]:
        return {"name": self.name, "parts": {part: list(self.patients(part)) for part in PARTS}}

    def write(self, path: Path) -> None:
        """Write the split and its hash."""
        write_hashed_json(path, self._document())

    @classmethod
    def read(cls, path: Path) -> Split:
        """Read a split file.

        Raises:
            DataError: missing, edited, or a patient in two parts.
        """
        document, _ = read_hashed_json(path)
        try:
            parts = cast("Mapping[str, list[str]]", document["parts"])
            return cls(str(document["name"]), {part: tuple(parts[part]) for part in PARTS})
        except DataError as error:
            raise DataError(f"{path}: {error}") from None
        except (KeyError, TypeError):
            raise DataError(f"{path}: is not a split file") from None


def official_split(name: str, assigned: Iterable[tuple[str, str]]) -> Split:
    """Return the split declared by the (patient, part) pairs of a manifest; raises unless it is disjoint."""
    parts: dict[str, set[str]] = defaultdict(set)
    for patient, part in assigned:
        parts[part].add(patient)
    return Split(name, {part: tuple(sorted(parts[part])) for part in PARTS})


def random_split(
    name: str, strata: Mapping[str, str], seed: int, shares: tuple[float, float, float] = (0.6, 0.1, 0.3)
) -> Split:
    """Return a seeded split, stratified by ``strata`` (patient -> diagnosis or the like).

    Each stratum is shuffled and assigned so that the parts' running sizes follow ``shares`` (train, val, test).
    """
    rng = np.random.Generator(np.random.PCG64(derive_seed(seed, "split")))
    by_stratum: dict[str, list[str]] = defaultdict(list)
    for patient in sorted(strata):
        by_stratum[strata[patient]].append(patient)
    dealt: dict[str, list[str]] = {part: [] for part in PARTS}
    for stratum in sorted(by_stratum):
        members = by_stratum[stratum]
        given = dict.fromkeys(PARTS, 0)
        for count, index in enumerate(rng.permutation(len(members)), start=1):
            part = max(PARTS, key=lambda p: shares[PARTS.index(p)] * count - given[p])
            dealt[part].append(members[index])
            given[part] += 1
    return Split(name, {part: tuple(sorted(dealt[part])) for part in PARTS})
