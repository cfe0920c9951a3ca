"""What one training stage trains, and how a method names the stages that come before its last one."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, TypeVar, get_args

import torch
from lightning.pytorch import LightningModule
from torch import Tensor

from tissuebench.common.settings import Settings
from tissuebench.datasets.color.white_background import WhiteBackground
from tissuebench.datasets.types import ClassMap, Stream, Supervision, TrainingBatch
from tissuebench.methods.api.training_settings import RateSchedule, TrainingSettings
from tissuebench.methods.networks.settings import NetworkSettings

SettingsT = TypeVar("SettingsT", bound=Settings)


@dataclass(frozen=True, slots=True)
class Examination:
    """What a stage has learnt so far, for people; nothing is trained on it.

    Attributes:
        figures: numbers by name, such as the loss on these images.
        columns: pictures by title, each (B, 3, H, W) float in 0..1, one a tile.
    """

    figures: Mapping[str, float]
    columns: Mapping[str, Tensor]


@dataclass(frozen=True, slots=True)
class Task:
    """What a stage is told of the task; nothing of paths or services.

    Attributes:
        class_map: classes and diagnoses.
        network: the network that all arms share.
        training: the stage's step budget.
        tile_px: edge of a tile; images and masks of a batch are so large, cached features those of so large a tile.
        white: which pixels are background by their colour; None where the dataset does not say so.
    """

    class_map: ClassMap
    network: NetworkSettings
    training: TrainingSettings
    tile_px: int
    white: WhiteBackground | None = None


class Trainable(LightningModule, ABC, Generic[SettingsT]):
    """One stage: the tiles that it wants in each step, and its loss.

    It never reads a file, never logs to a service and never sees test data; the benchmark owns data, steps, seeds.

    Class attributes:
        Config: its settings, all with defaults: the type in brackets, or a class of that name in the body.
        kind: identifies its stored results, as part of their key; unique to the class. The default is
            ``module:qualified name``, also for a subclass of a stage that sets its own. Set it to a fixed string before
            you rename or move the class: results stored under the old name are then still found.
    """

    Config: ClassVar[type[Settings]] = Settings
    kind: ClassVar[str]
    config: SettingsT

    def __init_subclass__(cls, **options: Any) -> None:  # noqa: ANN401 - handed on to whoever takes them
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

    @classmethod
    def wants_images(cls, config: SettingsT) -> bool:
        """Whether it needs images even where the features of a frozen encoder are cached."""
        return False

    @abstractmethod
    def streams(self) -> Mapping[str, Stream]:
        """The tiles wanted in each step; a stream's supervision must be among what the stage consumes."""

    @abstractmethod
    def training_step(self, batch: TrainingBatch, batch_idx: int) -> Tensor:
        """The scalar loss of one step."""

    def survey(self, tags: Mapping[str, Tensor]) -> None:
        """Look at the tags before the first step: how often is a class there, and is it there at all?

        Called once before ``inherit`` and the first step, and again by a process that resumes the stage, before the
        state is restored: what it sets must follow from the tags alone, or be part of the state.

        Args:
            tags: by ``tags`` stream, (N, K) bool on the CPU, of every tile that the stream can draw.
        """

    def inherit(self, weights: Mapping[str, Mapping[str, Tensor]]) -> None:
        """Take over what earlier stages have learnt: the last state of each, by the stage's name.

        Called once, before the first step; not called by stages without earlier ones.
        """
        raise NotImplementedError(f"{type(self).__name__} has earlier stages but no inherit()")

    def annotate(self, batch: Any) -> Tensor:  # noqa: ANN401 - each stage names the type that its stream gives
        """Pseudo-masks of tiles, (B, L, H, W) uint8 class ids, ``IGNORE_LABEL`` where none: L of them for each tile.

        Called after the last step for each tile of the stream that a stage ``annotates``, as it is in the store.

        Args:
            batch: of the type that this stream gives, ``TagBatch`` for tags; its images are always there.
        """
        raise NotImplementedError(f"{type(self).__name__} annotates tiles but has no annotate()")

    @property
    def layers(self) -> tuple[str, ...]:
        """Names of the L layers that ``annotate`` gives, for people; by default "layer 1", "layer 2" and so on."""
        return ()

    def examine(self, images: Tensor, generator: torch.Generator) -> Examination | None:
        """Show what was learnt, on tiles of patients who are not trained on; None, the default, has nothing to show.

        Called a few times during the stage and after its last step, in evaluation mode and without gradients.

        Args:
            images: (B, 3, H, W) uint8, the same at every call.
            generator: on the CPU, seeded alike at every call; all that is drawn comes from it.
        """
        return None

    def maps(self, images: Tensor) -> Tensor | None:
        """Features (B, C, h, w) of images (B, 3, H, W) uint8 whose worth a linear probe measures; None: no probe."""
        return None

    def note(self, text: str) -> None:
        """Leave a remark of one line for people, such as a class without a positive tag; it is kept with the result.

        For ``__init__``, ``survey``, ``inherit`` and ``annotate``, which a resumed stage calls again; what a training
        step says is lost when the stage is interrupted after it.
        """
        line = " ".join(text.split())
        if line not in self._notes:
            self._notes.append(line)

    @property
    def notes(self) -> tuple[str, ...]:
        """What was left with ``note``, in order, each once."""
        return tuple(self._notes)

    @property
    def progress(self) -> float:
        """Share of the step budget that is done, 0 to 1."""
        done = self.trainer.global_step if self._trainer is not None else 0
        return done / self.task.training.steps

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip the norm of all gradients. bf16 scales no loss, so fused optimisers can be clipped, too."""
        if gradient_clip_val is not None:
            torch.nn.utils.clip_grad_norm_(self.parameters(), gradient_clip_val)

    def configure_optimizers(self) -> Any:  # noqa: ANN401 - Lightning's own type is a union of a dozen
        """AdamW, its rate scheduled over the step budget: the same for every arm."""
        training = self.task.training
        optimizer = torch.optim.AdamW(
            [parameter for parameter in self.parameters() if parameter.requires_grad],
            lr=training.learning_rate,
            weight_decay=training.weight_decay,
            fused=True,
        )
        schedule: torch.optim.lr_scheduler.LRScheduler
        if training.rate_schedule is RateSchedule.POLYNOMIAL:
            schedule = torch.optim.lr_scheduler.PolynomialLR(optimizer, total_iters=training.steps, power=0.9)
        else:
            schedule = torch.optim.lr_scheduler.OneCycleLR(
                optimizer, max_lr=training.learning_rate, total_steps=training.steps + 1, pct_start=0.05
            )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


@dataclass(frozen=True, slots=True)
class Stage:
    """A stage before the last: computed once for all trials that agree on everything its result depends on.

    That is: data, split, network, augmentation, the fields below, the trial's seed, what the stages it needs depend
    on, and the budget if it consumes masks or tags. A stage without labels, or with diagnoses only (those of all
    training patients are known), is therefore shared by a whole column of budgets, and by methods that declare the
    same.

    Attributes:
        name: of its artefact, ``[a-z0-9_]``; streams and ``inherit`` use it.
        module: what is trained; made as ``module(task, config)``.
        config: the settings that its result depends on, and no others.
        training: its own step budget.
        consumes: kinds of labels; the door is closed for all others.
        needs: names of earlier stages that it inherits from or whose pseudo-masks it reads.
        annotates: a stream; each tile that it could draw gets the pseudo-masks that ``annotate`` makes of it.
    """

    name: str
    module: type[Trainable[Any]]
    config: Settings
    training: TrainingSettings
    consumes: frozenset[Supervision] = frozenset()
    needs: tuple[str, ...] = ()
    annotates: str | None = None

    @property
    def depends_on_budget(self) -> bool:
        """Whether another budget gives another result."""
        return bool(self.consumes & {Supervision.MASKS, Supervision.TAGS})
