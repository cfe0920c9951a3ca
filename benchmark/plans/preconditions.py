"""Preconditions of a run: a part that can be scored, and labels of every kind that a method learns from."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from tissuebench.datasets.labels.budget import LabelBudget
from tissuebench.datasets.labels.draw_budget import offer
from tissuebench.datasets.labels.view import LabelView
from tissuebench.datasets.manifest import PARTS
from tissuebench.datasets.splits import Split
from tissuebench.datasets.store.tile_store import TileStore
from tissuebench.datasets.types import Supervision
from tissuebench.errors import ConfigError, unknown_name
from tissuebench.methods.api.registry import find_method
from tissuebench.plans.schema import EvaluationSettings

OBJECTS_MAX_PX = 1 << 26
_REMEDIES = {
    Supervision.MASKS: "annotate some (column 'annotation' of the manifest)",
    Supervision.TAGS: "annotate some or fill in column 'tags' of the manifest",
}


def check_part(store: TileStore, split: Split, part: str, key: str = "part") -> None:
    """Raise ``ConfigError`` unless ``part`` of the split has patients, and one of them is annotated.

    Args:
        store: the labels.
        split: the patients of each part.
        part: name of the part.
        key: the setting in ``evaluation`` that names it.
    """
    where = f"dataset {store.info.dataset!r}: evaluation.{key}"
    patients = split.patients(part)
    if not patients:
        filled = [name for name in PARTS if split.patients(name)]
        raise ConfigError(f"{where}: {unknown_name('part', part, filled)} (that part has no patients)")
    if not _is_annotated(store, split, part):
        others = [name for name in ("val", "test") if _is_annotated(store, split, name)]
        choice = f"set evaluation.{key}={others[0]} or " if others and key == "part" else ""
        raise ConfigError(
            f"{where}: none of the {len(patients)} patients of part {part!r} is annotated, so masks cannot be scored; "
            f"{choice}annotate one"
        )


def check_objects(stores: Sequence[TileStore], splits: Sequence[Split], evaluation: EvaluationSettings) -> None:
    """Raise ``ConfigError`` if a class of ``evaluation.objects`` is in no dataset, or a slide is too large for them.

    Regions are told apart on whole slides, in memory, which glands and nuclei in fields of view need little of.
    """
    known = sorted({name for store in stores for name in store.class_map.names})
    for name in evaluation.objects:
        if name not in known:
            raise ConfigError(f"evaluation.objects: {unknown_name('class', name, known)}")
    for store, split in zip(stores, splits, strict=True):
        if not evaluation.objects_of(store.class_map.names):
            continue
        for slide in LabelView.for_evaluation(store, split, evaluation.part).slides:
            if slide.height * slide.width > OBJECTS_MAX_PX:
                raise ConfigError(
                    f"dataset {store.info.dataset!r}: evaluation.objects: slide {slide.slide_id!r} has {slide.height} "
                    f"x {slide.width} px, and objects are scored on slides of at most {OBJECTS_MAX_PX} px; leave the "
                    "setting out, or ingest fields of view"
                )


def missing_labels(method: str, kinds: Collection[Supervision], store: TileStore, split: Split) -> str:
    """Return which labels of the training part a method lacks and what to do, in one line; empty if it lacks none.

    Args:
        method: a registered method.
        kinds: ``masks`` and ``tags``, as far as its budgets buy them.
        store: the labels.
        split: split whose training part is used.
    """
    reason = ""
    for kind in sorted(kinds):
        if not offer(store, split, kind).n_tiles:
            reason = f"learns from {kind}, which no patient of the training part has; {_REMEDIES[kind]}"
    if not reason and Supervision.DIAGNOSIS in find_method(method).consumes:
        reason = _missing_diagnoses(store, split)
    return reason and f"dataset {store.info.dataset!r}: method {method!r} {reason}, or leave the method out"


def _missing_diagnoses(store: TileStore, split: Split) -> str:
    nothing = LabelBudget("", 0, split.sha256)
    view = LabelView.for_training(store, split, nothing, frozenset({Supervision.DIAGNOSIS}))
    if not any(view.diagnosis(slide.slide_id) for slide in view.slides):
        return (
            "learns from diagnoses, which no patient of the training part has; fill in column 'diagnosis' of the "
            "manifest"
        )
    if not any(view.excluded(slide.slide_id).any() for slide in view.slides):
        return (
            "learns from the classes that a diagnosis rules out, and no diagnosis of the training part rules out any; "
            "list what each one allows under 'diagnoses' of dataset.yaml"
        )
    return ""


def _is_annotated(store: TileStore, split: Split, part: str) -> bool:
    view = LabelView.for_evaluation(store, split, part)
    return any(any(view.class_pixels(slide) or ()) for slide in view.slides)
