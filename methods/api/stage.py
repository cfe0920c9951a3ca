"""Training stages: what one stage trains, and how a method declares the stages before its last one."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Generic, TypeVar, get_args

import torch
from lightning.pytorch import LightningModule
from torch import Tensor
from torchmetrics import Metric, MetricCollection

from tissuebench.common.settings import Settings
from tissuebench.datasets.color.white_background import WhiteBackground
from tissuebench.datasets.types import ClassMap, Stream, Supervision, TrainingBatch
from tissuebench.errors import ConfigError
from tissuebench.methods.api.optimization import build_optimizer, build_schedule
from tissuebench.methods.api.training_settings import TrainingSettings
from tissuebench.methods.networks.settings import NetworkSettings

SettingsT = TypeVar("SettingsT", bound=Settings)
Logged = float | Tensor | Metric
"""Value that a stage may log."""

GRADIENT_NORM, LOSS_SCALE = "train/gradient_norm", "train/loss_scale"
_OURS = ("train/", "selection/", "val/")


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Snapshot of what a stage has learned so far, for users to inspect; nothing is trained on it.

    Attributes:
        figures: numbers by name, such as the loss on these images.
        columns: pictures by title, each (B, 3, H, W) float in 0..1, one per tile.
    """

    figures: Mapping[str, float]
    columns: Mapping[str, Tensor]


@dataclass(frozen=True, slots=True)
class Task:
    """Task description passed to a stage; it contains no paths or services.

    Attributes:
        class_map: classes and diagnoses.
        network: the network that all methods share.
        training: step budget of the stage.
        tile_px: edge length of a tile, or of the plan's crops: the size of a batch's images and masks; cached features
            are those of a tile of this size.
        white: rule for pixels that are background by their colour; None if the dataset defines none.
    """

    class_map: ClassMap
    network: NetworkSettings
    training: TrainingSettings
    tile_px: int
    white: WhiteBackground | None = None


class Trainable(LightningModule, ABC, Generic[SettingsT]):
    """One training stage: the tiles it requests in each step, and its loss.

    It never reads files, connects to a service or sees test data; the benchmark owns data, steps and seeds.

    Attributes:
        logs_step: whether ``log`` has an effect in the current step.
        logged: values logged in the current step, for the benchmark.

    Class attributes:
        Config: settings class, with a default for every field: the type argument in brackets, or a nested class of
            this name.
        kind: identifies its stored results, as part of their key; unique to the class. The default is
            ``module:qualified name``, also for a subclass of a stage that sets its own. Set it to a fixed string before
            you rename or move the class: results stored under the old name are then still found.
        half_precision: whether a network in float16 with a gradient scaler learns like one in float32: activations stay
            below 65504, and the loss converts logits to float32. It is then trained so on GPUs without bf16. A class
            that overrides ``training_step`` is trained in float32 there unless it declares this itself.
    """

    Config: ClassVar[type[Settings]] = Settings
    half_precision: ClassVar[bool] = False
    kind: ClassVar[str]
    config: SettingsT

    def __init_subclass__(cls, **options: Any) -> None:  # noqa: ANN401 - passed on to the next class
        super().__init_subclass__(**options)
        if "kind" not in cls.__dict__:
            cls.kind = f"{cls.__module__}:{cls.__qualname__}"
        if "Config" not in cls.__dict__:
            named = [argument for base in cls.__dict__.get("__orig_bases__", ()) for argument in get_args(base)]
            for settings in (each for each in named if isinstance(each, type) and issubclass(each, Settings)):
                cls.Config = settings

    def __init__(self, task: Task, config: SettingsT) -> None:
        super().__init__()
        if not isinstance(config, self.Config):
            own = type(self)
            raise TypeError(f"{own.__name__} needs {own.Config.__qualname__}, got {type(config).__qualname__}")
        self.task, self.config = task, config
        self._notes: list[str] = []
        self.logs_step = False
        self.logged: dict[str, Logged] = {}

    @classmethod
    def brings_network(cls, config: SettingsT) -> bool:
        """Whether the stage trains a network of its own in place of the shared one, and so reads images."""
        return False

    @classmethod
    def allows_float16(cls, config: SettingsT) -> bool:
        """Whether it may be trained in float16: declared by the class whose ``training_step`` is called, or below."""
        said = next(vars(kind) for kind in cls.__mro__ if {"half_precision", "training_step"} & vars(kind).keys())
        return bool(said.get("half_precision"))

    @classmethod
    def wants_images(cls, config: SettingsT) -> bool:
        """Whether the stage needs images even if the features of a frozen encoder are cached."""
        return cls.brings_network(config)

    @abstractmethod
    def streams(self) -> Mapping[str, Stream]:
        """Return the streams of tiles for each step; their supervision must be among what the stage consumes."""

    @abstractmethod
    def training_step(self, batch: TrainingBatch, batch_idx: int) -> Tensor:
        """Return the scalar loss of one step."""

    def survey(self, tags: Mapping[str, Tensor]) -> None:
        """Inspect the tags before the first step, for example to count how often each class occurs.

        Called once before ``inherit`` and the first step, and again by a process that resumes the stage, before the
        state is restored: whatever it sets must depend on the tags alone, or be part of the state.

        Args:
            tags: per ``tags`` stream, (N, K) bool on the CPU, the tags of every tile that the stream can draw.
        """

    def inherit(self, weights: Mapping[str, Mapping[str, Tensor]]) -> None:
        """Initialise from earlier stages, given the final state of each by the stage's name.

        Called once, before the first step; not called for stages without earlier ones.
        """
        raise NotImplementedError(f"{type(self).__name__} has earlier stages but no inherit()")

    def annotate(self, batch: Any) -> Tensor:  # noqa: ANN401 - each stage names the type that its stream gives
        """Return L pseudo-masks per tile, (B, L, H, W) uint8 class ids, ``IGNORE_LABEL`` where there is none.

        Called after the last step for each tile of the stream that a stage ``annotates``, without augmentation.

        Args:
            batch: of the stream's batch type, e.g. ``TagBatch`` for tags; it always includes the images.
        """
        raise NotImplementedError(f"{type(self).__name__} annotates tiles but has no annotate()")

    @property
    def layers(self) -> tuple[str, ...]:
        """Display names of the L layers that ``annotate`` returns; by default "layer 1", "layer 2" and so on."""
        return ()

    def snapshot(self, images: Tensor, generator: torch.Generator) -> Snapshot | None:
        """Return a snapshot of the training progress on tiles of held-out patients; None, the default, for no snapshot.

        Called a few times during the stage and after its last step, in evaluation mode and without gradients.

        Args:
            images: (B, 3, H, W) uint8, the same at every call.
            generator: on the CPU, with the same seed at every call; all random numbers must come from it.
        """
        return None

    def maps(self, images: Tensor) -> Tensor | None:
        """Return features (B, C, h, w) of images (B, 3, H, W) uint8 for a linear probe; None (default): no probe."""
        return None

    def log(self, name: str, value: Logged, *args: Any, **options: Any) -> None:  # noqa: ANN401 - Lightning's options
        """Log a number of the current step for the curves of the trial, as in Lightning.

        Lightning's options are accepted and have no effect: the value of the step is logged, averaged over processes,
        in step 1, every tenth step and the last; in between and outside of a fit, nothing is done. The step is the only
        axis; a stage has no epochs. (Lightning's own bookkeeping would repeat the last value at every step at which a
        method logs none.) Gradients do not flow through the value, and the training does not depend on it.

        Args:
            name: of the curve, for example ``loss/contrast``; ``train/``, ``selection/`` and ``val/`` belong to the
                benchmark.
            value: a number, a tensor with one element, or a torchmetrics ``Metric``, of which the current value counts.
            *args: Lightning's options; without effect.
            **options: the same.

        Raises:
            ConfigError: the name is taken or the value is not a number.

        Examples:
            >>> def training_step(self, batch, batch_idx):
            ...     loss = masked_cross_entropy(self.network(batch[ANNOTATED].inputs), batch[ANNOTATED].masks)
            ...     self.log("loss/masks", loss)
            ...     return loss
        """
        if not self.logs_step:
            return
        where = f"{type(self).__name__}.log({name!r}, ...)"
        if not name or name == "step" or name.startswith(_OURS):
            raise ConfigError(
                f"{where}: 'step' and names in {', '.join(_OURS)} are the benchmark's; choose another name"
            )
        value = value.compute() if isinstance(value, Metric) else value
        if isinstance(value, Tensor):
            if value.numel() != 1:
                raise ConfigError(f"{where}: expected a single number, got a tensor of shape {tuple(value.shape)}")
            value = value.detach().clone()
        elif not isinstance(value, (int, float)):
            raise ConfigError(f"{where}: expected a number, got a {type(value).__name__}")
        self.logged[name] = value

    def log_dict(
        self,
        dictionary: Mapping[str, Logged] | MetricCollection,
        *args: Any,  # noqa: ANN401 - Lightning's options
        **options: Any,  # noqa: ANN401
    ) -> None:
        """Log several numbers of the current step, see ``log``."""
        for name, value in dictionary.items():
            self.log(name, value)

    def note(self, text: str) -> None:
        """Record a one-line remark for the user, such as a class without a positive tag; it is stored with the result.

        For ``__init__``, ``survey``, ``inherit`` and ``annotate``, which run again when a stage is resumed; remarks
        from a training step are lost if the stage is interrupted later.
        """
        line = " ".join(text.split())
        if line not in self._notes:
            self._notes.append(line)

    @property
    def notes(self) -> tuple[str, ...]:
        """Remarks recorded with ``note``, in order, without duplicates."""
        return tuple(self._notes)

    @property
    def is_annotated(self) -> bool:
        """Whether the steps learn from masks, as those of ``supervised`` do: whether a stream carries them.

        A stage that learns from masks in another way, such as pseudo-masks that include bought ones, overrides this.
        """
        return any(stream.supervision is Supervision.MASKS for stream in self.streams().values())

    @property
    def progress(self) -> float:
        """Completed share of the step budget, 0 to 1."""
        done = self.trainer.global_step if self._trainer is not None else 0
        return done / self.task.training.steps

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip the total gradient norm, if the settings say so, and log it.

        In float16 the loss is scaled. Lightning unscales the gradients before it calls this, but not those of fused
        optimisers, which can do so in their step; these would be clipped while scaled.
        """
        if gradient_clip_val is None and not self.logs_step:
            return
        scaler = None if self._trainer is None else getattr(self.trainer.precision_plugin, "scaler", None)
        if scaler is not None and getattr(optimizer, "_step_supports_amp_scaling", False):
            scaler.unscale_(optimizer)  # its step then leaves them as they are
        norm = torch.nn.utils.clip_grad_norm_(self.parameters(), gradient_clip_val or math.inf)
        if self.logs_step:
            self.logged[GRADIENT_NORM] = norm
            if scaler is not None:
                self.logged[LOSS_SCALE] = scaler.get_scale()

    def configure_optimizers(self) -> Any:  # noqa: ANN401 - Lightning's own type is a union of a dozen
        """Return the optimiser and the learning-rate schedule that the training settings of the stage name.

        Raises:
            ConfigError: a rate of its own for the head of a network without an encoder.
        """
        optimizer = build_optimizer(self, self.task.training)
        scheduler = build_schedule(optimizer, self.task.training)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


@dataclass(frozen=True, slots=True)
class Stage:
    """A stage before the last one: computed once for all trials that agree on everything its result depends on.

    That is: data, split, network, augmentation, the fields below, the trial's seed, the dependencies of the stages it
    needs, and the budget if it consumes masks or tags. A stage without labels, or with diagnoses only (those of all
    training patients are known), is therefore shared by all budgets of a sweep, and by methods that declare the same
    stage.

    Attributes:
        name: name of its artefact, ``[a-z0-9_]``, as used by streams and ``inherit``.
        module: class to train; instantiated as ``module(task, config)``.
        config: the settings that its result depends on, and no others.
        training: its own training settings.
        consumes: kinds of labels it may read; the label view refuses all others.
        needs: names of earlier stages whose weights it inherits or whose pseudo-masks it reads.
        annotates: name of a stream; each tile that it can draw gets the pseudo-masks from ``annotate``.
        augmentation: its own augmentation settings in place of the plan's.
        epoch_of: labels whose tiles make up an epoch; by default masks, or else tags, if it consumes them, or else all
            tiles of the training patients.
    """

    name: str
    module: type[Trainable[Any]]
    config: Settings
    training: TrainingSettings
    consumes: frozenset[Supervision] = frozenset()
    needs: tuple[str, ...] = ()
    annotates: str | None = None
    augmentation: Mapping[str, Any] = field(default_factory=dict)
    epoch_of: Supervision | None = None

    @property
    def epoch_tiles(self) -> Supervision:
        """Labels whose tiles make up an epoch."""
        if self.epoch_of is not None:
            return self.epoch_of
        return next((kind for kind in (Supervision.MASKS, Supervision.TAGS) if kind in self.consumes), Supervision.NONE)

    @property
    def depends_on_budget(self) -> bool:
        """Whether the result depends on the budget."""
        return bool(self.consumes & {Supervision.MASKS, Supervision.TAGS})
