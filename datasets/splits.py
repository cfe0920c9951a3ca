"""Patient-disjoint splits, stored as files: patients for training, validation and testing."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
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
        >>> patients = {f"p{n}": "A" for n in range(10)}
        >>> split = random_split("mine", patients, annotated=patients, seed=0)
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


def stratum_of(diagnoses: Iterable[str]) -> str:
    """Return the stratum of a patient with these diagnoses, of all slides; empty if there is none."""
    return ";".join(sorted(set(diagnoses)))


def random_split(
    name: str,
    diagnoses: Mapping[str, str],
    annotated: Collection[str],
    seed: int,
    shares: tuple[float, float, float] = (0.6, 0.1, 0.3),
) -> Split:
    """Return a seeded split, stratified by annotation and diagnosis.

    Annotated patients are dealt over the parts by ``shares``, and so are those with a diagnosis only: in the test part,
    they add to the scores of cases. With neither, a patient is of use in training only, as unlabelled tissue. Of three
    annotated patients or more, every part has at least one.

    Args:
        name: name of the split.
        diagnoses: ``stratum_of`` each patient.
        annotated: the patients of whom somebody annotated something.
        seed: seed of the split.
        shares: shares of train, val and test, which add up to 1.
    """
    rng = np.random.Generator(np.random.PCG64(derive_seed(seed, "split")))
    masked = {patient: stratum for patient, stratum in diagnoses.items() if patient in annotated}
    diagnosed = {patient: stratum for patient, stratum in diagnoses.items() if stratum and patient not in annotated}
    neither = diagnoses.keys() - masked.keys() - diagnosed.keys()
    dealt = [_deal(group, shares, rng) for group in (masked, diagnosed)] + [{"train": list(neither)}]
    return Split(name, {part: tuple(sorted(chain(*(group.get(part, ()) for group in dealt)))) for part in PARTS})


def _deal(strata: Mapping[str, str], shares: Sequence[float], rng: np.random.Generator) -> dict[str, list[str]]:
    """Deal patients so that each part has exactly its size, and each stratum is within one of its share of it.

    Each stratum first gives every part what it can give in whole patients. Those left over, fewer than there are parts,
    go one each to the parts that still lack most, which always ends with no part lacking any (Gale 1957, Ryser 1957:
    a matrix of zeros and ones with given margins).
    """
    by_stratum: dict[str, list[str]] = defaultdict(list)
    for patient in sorted(strata):
        by_stratum[strata[patient]].append(patient)
    sizes = _sizes(len(strata), shares)
    whole = {name: [size * len(by_stratum[name]) // len(strata) for size in sizes] for name in by_stratum}
    lacking = [size - sum(counts[part] for counts in whole.values()) for part, size in enumerate(sizes)]
    dealt: dict[str, list[str]] = {part: [] for part in PARTS}
    for name in sorted(by_stratum):
        members, counts = by_stratum[name], whole[name]
        for part in sorted(range(len(PARTS)), key=lambda part: -lacking[part])[: len(members) - sum(counts)]:
            counts[part] += 1
            lacking[part] -= 1
        shuffled = [members[index] for index in rng.permutation(len(members))]
        for part_name, count in zip(PARTS, counts, strict=True):
            dealt[part_name] += [shuffled.pop() for _ in range(count)]
    return dealt


def _sizes(count: int, shares: Sequence[float]) -> list[int]:
    """Return the sizes of parts, by largest remainders; none that has a share is empty while there are enough."""
    wanted = [round(share * count, 9) for share in shares]
    sizes = [math.floor(size) for size in wanted]
    for part in sorted(range(len(shares)), key=lambda part: sizes[part] - wanted[part])[: count - sum(sizes)]:
        sizes[part] += 1
    for part, share in enumerate(shares):
        if share and not sizes[part] and count >= sum(map(bool, shares)):
            sizes[sizes.index(max(sizes))] -= 1
            sizes[part] += 1
    return sizes
