"""Label budgets: which training patients' masks an annotator's time has bought. Nested, stratified, seeded, on file."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np

from tissuebench.datasets.files import read_hashed_json, write_hashed_json
from tissuebench.datasets.splits import Split
from tissuebench.datasets.store import TileStore
from tissuebench.datasets.tiling import grid
from tissuebench.errors import ConfigError, DataError
from tissuebench.hashing import Json, content_hash, derive_seed

_SPEC = re.compile(r"masks:(?:(?P<patients>\d+)p|(?P<share>\d+(?:\.\d+)?)%|(?P<all>all))")


@dataclass(frozen=True, slots=True)
class LabelBudget:
    """What was bought: patients in the order of purchase, what it cost, and where it came from."""

    spec: str
    replicate: int
    split_sha256: str
    patients: tuple[str, ...]
    tiles: int
    minutes: float

    @property
    def sha256(self) -> str:
        """Hash of the content, as it stands in the file and in every result."""
        return content_hash(self._document())

    def _document(self) -> dict[str, Json]:
        return {
            "spec": self.spec,
            "replicate": self.replicate,
            "split_sha256": self.split_sha256,
            "patients": list(self.patients),
            "tiles": self.tiles,
            "minutes": self.minutes,
        }


def patients_bought(spec: str, n_patients: int) -> int:
    """How many patients ``masks:3p``, ``masks:25%`` (rounded up) or ``masks:all`` buys out of ``n_patients``.

    Raises:
        ConfigError: another spelling, nothing bought, or more than there are.
    """
    match = _SPEC.fullmatch(spec)
    if match is None:
        raise ConfigError(f"budget {spec!r}: say 'masks:3p' (patients), 'masks:25%' (a share) or 'masks:all'")
    if match["all"]:
        return n_patients
    if match["patients"]:
        wanted = int(match["patients"])
    else:
        wanted = math.ceil(float(match["share"]) / 100 * n_patients - 1e-9)
    if not 1 <= wanted <= n_patients:
        raise ConfigError(f"budget {spec!r} asks for {wanted} patients, the training part has {n_patients}")
    return wanted


def purchase_order(
    diagnoses: Mapping[str, str], classes: Mapping[str, frozenset[int]], replicate: int
) -> tuple[str, ...]:
    """The order in which patients are annotated; every budget is a prefix of it, so budgets are nested.

    At each step the patients that show most classes not seen yet come first; among them those whose diagnosis is most
    under-represented so far; among them the draw of ``replicate`` decides.

    Args:
        diagnoses: stratum of each patient.
        classes: classes present in each patient's masks.
        replicate: number of the draw.
    """
    rng = np.random.Generator(np.random.PCG64(derive_seed(replicate, "budget")))
    shuffled = sorted(diagnoses)
    rng.shuffle(shuffled)
    sizes = Counter(diagnoses.values())
    taken: Counter[str] = Counter()
    seen: set[int] = set()
    order: list[str] = []
    while shuffled:
        best = max(
            shuffled,
            key=lambda patient: (len(classes[patient] - seen), -taken[diagnoses[patient]] / sizes[diagnoses[patient]]),
        )
        shuffled.remove(best)
        order.append(best)
        seen |= classes[best]
        taken[diagnoses[best]] += 1
    return tuple(order)


def draw_budget(store: TileStore, split: Split, spec: str, replicate: int) -> LabelBudget:
    """Draw a budget from the training part.

    Raises:
        ConfigError: the budget is larger than the training part, or spelt otherwise.
    """
    train = set(split.patients("train"))
    slides = [slide for slide in store.slides.values() if slide.patient_id in train]
    diagnoses: dict[str, str] = {}
    classes: dict[str, frozenset[int]] = {}
    for slide in slides:
        diagnosis = ";".join(sorted(store.withheld.diagnosis(slide.slide_id)))
        diagnoses[slide.patient_id] = max(diagnosis, diagnoses.get(slide.patient_id, ""))
        present = {index for index, count in enumerate(store.withheld.class_pixels(slide.slide_id)) if count}
        classes[slide.patient_id] = classes.get(slide.patient_id, frozenset()) | present
    count = patients_bought(spec, len(diagnoses))
    bought = purchase_order(diagnoses, classes, replicate)[:count]
    tiles = sum(len(grid(slide, store.info.tile_px)) for slide in slides if slide.patient_id in set(bought))
    minutes = tiles * store.info.costs.mask_minutes_per_tile
    return LabelBudget(spec, replicate, split.sha256, bought, tiles, minutes)


def persisted_budget(folder: Path, store: TileStore, split: Split, spec: str, replicate: int) -> LabelBudget:
    """The budget on file, drawn and written first if it is not there yet.

    Raises:
        DataError: the file was edited.
        ConfigError: see ``draw_budget``.
    """
    patients_bought(spec, len(split.patients("train")))  # a spec that passes can be a file name
    name = spec.removeprefix("masks:").replace("%", "pct")
    drawn_from = content_hash([store.content_hash, split.sha256])
    path = folder / drawn_from[:12] / f"masks-{name}-r{replicate}.json"
    if not path.exists():
        budget = draw_budget(store, split, spec, replicate)
        write_hashed_json(path, budget._document())
        return budget
    document, _ = read_hashed_json(path)
    if [document["spec"], document["replicate"], document["split_sha256"]] != [spec, replicate, split.sha256]:
        raise DataError(f"{path}: holds another budget than its name says; delete it")
    return LabelBudget(
        spec=spec,
        replicate=replicate,
        split_sha256=split.sha256,
        patients=tuple(cast("list[str]", document["patients"])),
        tiles=cast("int", document["tiles"]),
        minutes=float(cast("float", document["minutes"])),
    )
