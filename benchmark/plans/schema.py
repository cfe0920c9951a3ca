"""Schema of a plan: methods, budgets and seeds to compare, and their settings. YAML in, canonical JSON out."""

from __future__ import annotations

from enum import StrEnum
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal, TypeVar, cast

import yaml
from pydantic import BaseModel, Field, ValidationError

from tissuebench.common.settings import Settings
from tissuebench.datasets.loading.augment_settings import AugmentSettings
from tissuebench.errors import ConfigError, unknown_name
from tissuebench.methods.api.training_settings import TrainingSettings
from tissuebench.methods.networks.settings import NetworkSettings
from tissuebench.plans.compute import ComputeSettings

ModelT = TypeVar("ModelT", bound=BaseModel)
_PUBLISHED = "published/"


class Views(StrEnum):
    """Views of a window whose probabilities are averaged: itself; plus mirror images (4); plus rotations (8)."""

    NONE = "none"
    FLIPS = "flips"
    DIHEDRAL = "dihedral"


class Tracking(StrEnum):
    """Service that shows the curves of trials, in addition to ``metrics.csv`` in their folders."""

    WANDB = "wandb"
    TENSORBOARD = "tensorboard"


class EvaluationSettings(Settings):
    """Settings for predicting and scoring slides.

    Attributes:
        part: part of the split that is scored; ``val`` for choosing settings, ``test`` for the table.
        window_px: edge of a window at the store's mpp; null uses the size of a training tile. Networks that normalise
            over a window see different statistics in a larger one: on the synthetic cohort, windows of four times the
            tile cost .1 mIoU.
        overlap: fraction of a window's edge that it shares with its neighbour, across which the two are blended.
        tta: test-time augmentation, the same for all methods.
        boundary_um: maximum distance between a predicted boundary and the true one for a match, in micrometres; in
            pixels of the store if the data set does not publish its mpp.
        objects: classes that consist of objects, such as glands and nuclei: each connected region is scored as one
            (``region_dice`` and so on). A dataset is scored on those of them that it has.
        watch: part of the split to score while a trial trains, as curves for people: nothing is chosen by them, and no
            result depends on them. It takes the time of a scoring each time, which is not counted as the method's.
        watch_every: steps between two of these; ``training.selection_every`` if the trial selects its checkpoint.
    """

    part: Literal["val", "test"] = "test"
    window_px: int | None = Field(None, ge=32)
    overlap: float = Field(0.25, ge=0, le=0.5)
    tta: Views = Views.NONE
    boundary_um: float = Field(5.0, ge=0, le=1000)
    objects: tuple[str, ...] = ()
    watch: Literal["val"] | None = None
    watch_every: int = Field(100, ge=1)

    def objects_of(self, classes: tuple[str, ...]) -> tuple[str, ...]:
        """Return those of a dataset's classes that are objects, in the dataset's order."""
        return tuple(name for name in classes if name in self.objects)


class Plan(Settings):
    """A grid of trials, and the settings that all its methods share.

    Attributes:
        datasets: recipe names; a sweep over several datasets trains every method on each of them.
        budgets: label budgets, see ``LabelBudget``.
        seeds: seeds of the trials.
        replicates: draws of the budgets. ``per_seed`` gives every seed its own draw; a list crosses draws and seeds.
        network, training, augmentation, evaluation: shared settings.
        methods: settings of individual methods that differ from their defaults; the names listed here are the methods
            to compare if the command names none. A list in place of a single value, as in ``gamma: [0, 1, 2]``, is a
            grid: one variant of the method per value (``plans.grid``).
        compute: where and how the plan runs; no result depends on it, except that ``feature_cache_gb`` decides whether
            features are cached where ``network.feature_cache`` does not.
        tracking: services that show the curves, ``wandb`` and ``tensorboard``; no result depends on it.
    """

    datasets: tuple[str, ...] = Field(("synthetic",), min_length=1)
    budgets: tuple[str, ...] = Field(min_length=1)
    seeds: tuple[int, ...] = Field((0, 1, 2), min_length=1)
    replicates: Literal["per_seed"] | tuple[int, ...] = "per_seed"
    network: NetworkSettings = NetworkSettings()
    training: TrainingSettings = TrainingSettings()
    augmentation: AugmentSettings = AugmentSettings()
    evaluation: EvaluationSettings = EvaluationSettings()
    methods: dict[str, dict[str, Any]] = {}
    compute: ComputeSettings = ComputeSettings()
    tracking: tuple[Tracking, ...] = (Tracking.WANDB,)


def plan_names() -> list[str]:
    """Return the names of the plans that ship with the suite; those of published recipes are ``published/NAME``."""
    root = files("tissuebench.plans")
    found = [(folder, entry.name) for folder in ("", _PUBLISHED) for entry in (root / folder).iterdir()]
    return sorted(folder + name.removesuffix(".yaml") for folder, name in found if name.endswith(".yaml"))


def load_plan(name_or_path: str, overrides: tuple[str, ...] = ()) -> Plan:
    """Read a plan by name or from a YAML file, and apply ``key.path=value`` overrides (values are YAML).

    Raises:
        ConfigError: no such plan, not YAML, an unknown key or an invalid value; the message names file and key.

    Examples:
        >>> plan = load_plan("smoke", ("training.steps=500",))
        >>> plan.training.steps
        500
    """
    if name_or_path.endswith((".yaml", ".yml")):
        path = Path(name_or_path)
        if not path.is_file():
            raise ConfigError(f"{path}: no such plan file")
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"{path}: cannot be read as UTF-8 text ({error})") from None
    elif name_or_path in plan_names():
        text = files("tissuebench.plans").joinpath(f"{name_or_path}.yaml").read_text()
    else:
        raise ConfigError(unknown_name("plan", name_or_path, plan_names()) + "; or give a path to a .yaml file")
    try:
        document = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"{name_or_path}: not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(document, dict):
        raise ConfigError(f"{name_or_path}: a plan is a mapping with at least 'budgets'")
    for override in overrides:
        _apply(document, override)
    return validated(Plan, document, f"plan {name_or_path}")


def validated(model: type[ModelT], document: dict[str, Any], where: str) -> ModelT:
    """Return ``document`` validated as a ``model``.

    Raises:
        ConfigError: one line with the first wrong key; for an unknown key, also the closest known one.
    """
    try:
        return model.model_validate(document)
    except ValidationError as error:
        first = error.errors()[0]
        location = [str(part) for part in first["loc"]]
        if first["type"] == "extra_forbidden":
            parent = _model_at(model, location[:-1])
            prefix = "".join(f"{part}." for part in location[:-1])
            known = [f"{prefix}{name}" for name in (parent.model_fields if parent else {})]
            raise ConfigError(f"{where}: {unknown_name('key', '.'.join(location), known)}") from None
        message = first["msg"].removeprefix("Value error, ").replace("a valid tuple", "a list, as in [a, b]")
        raise ConfigError(f"{where}: key {'.'.join(location)!r}: {message}") from None


def _model_at(model: type[BaseModel], location: list[str]) -> type[BaseModel] | None:
    for part in location:
        field = model.model_fields.get(part)
        kind = field.annotation if field else None
        if not (isinstance(kind, type) and issubclass(kind, BaseModel)):
            return None
        model = kind
    return model


def _apply(document: dict[str, Any], override: str) -> None:
    key, separator, value = override.partition("=")
    if not separator or not key:
        raise ConfigError(f"--set {override!r}: write KEY=VALUE, for example training.steps=500")
    *parents, last = key.split(".")
    node = document
    for parent in parents:
        node = cast("dict[str, Any]", node.setdefault(parent, {}))
        if not isinstance(node, dict):
            raise ConfigError(f"--set {override!r}: {parent!r} has no keys of its own")
    try:
        node[last] = yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise ConfigError(f"--set {override!r}: not YAML: {' '.join(str(error).split())}") from None
