"""Base class of all methods: the contract between a weak-supervision strategy and the benchmark."""

from __future__ import annotations

from abc import ABC
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Protocol, TypeGuard

from torch import Tensor

from tissuebench.common.own_settings import Own, in_place_of, inherited
from tissuebench.common.settings import Settings
from tissuebench.datasets.loading.augment_settings import AugmentSettings
from tissuebench.datasets.types import IGNORE_LABEL, MaskBatch, Stream, StreamName, Supervision
from tissuebench.methods.api.stage import SettingsT, Stage, Task, Trainable
from tissuebench.methods.api.training_settings import TrainingSettings
from tissuebench.methods.losses.pixel_nll import pixel_nll
from tissuebench.methods.losses.pooling import pooled
from tissuebench.methods.networks import Encoded, Segmenter, build_segmenter

ANNOTATED = StreamName("annotated", MaskBatch)
"""Stream of tiles with masks. All methods that use masks share this name, and therefore see the same tiles."""


class RecipeSettings(Settings):
    """Settings of a published recipe, which is trained as published and not as the plan says.

    Attributes:
        training: training settings of the last stage in place of the plan's.
        augmentation: augmentation settings in place of the plan's.
    """

    training: Annotated[dict[str, Any], Own(TrainingSettings)] = inherited()
    augmentation: Annotated[dict[str, Any], Own(AugmentSettings)] = inherited()


def _is_recipe(config: Settings) -> TypeGuard[RecipeSettings]:
    return isinstance(config, RecipeSettings)


class Scorable(Protocol):
    """A slide whose prediction the benchmark scores."""

    def score(self, method: Method[Any]) -> None:
        """Predict the slide with ``method`` and count."""
        ...


class Method(Trainable[SettingsT], ABC):
    """A weak-supervision strategy: the labels it consumes, the tiles it requests, and its loss.

    A method is one file with a subclass decorated by ``@register``, or an entry point ``tissuebench.methods`` of
    another package. It never reads files, connects to a service or sees test data; the benchmark owns data, step
    budget, seeds and evaluation.

    Class attributes:
        name: name on the command line and in plans.
        summary: one line for ``tissuebench method list``.
        consumes: kinds of supervision; the label view refuses labels of any other kind.
        controls: methods to report next to this one in every table.
        fixed_budget: a budget that overrides the plan's (the upper bound always has all masks).
        predicts_features: whether ``predict`` takes cached features of a frozen encoder as well. A class that overrides
            ``predict`` is scored from images unless it declares this itself.
        Config: settings class, with a default for every field: the type argument in brackets, or a nested class of
            this name.

    Examples:
        >>> from tissuebench.methods.api import ANNOTATED, Method, Settings, Supervision, masked_cross_entropy
        >>> class MineSettings(Settings):
        ...     weight: float = 0.5
        >>> class Mine(Method[MineSettings]):
        ...     name, summary, consumes = "mine", "half the cross-entropy", frozenset({Supervision.MASKS})
        ...
        ...     def streams(self):
        ...         return {ANNOTATED: self.annotated_stream()}
        ...
        ...     def training_step(self, batch, batch_idx):
        ...         tiles = batch[ANNOTATED]
        ...         return self.config.weight * masked_cross_entropy(self.network(tiles.inputs), tiles.masks)
    """

    name: ClassVar[str]
    summary: ClassVar[str]
    consumes: ClassVar[frozenset[Supervision]]
    controls: ClassVar[tuple[str, ...]] = ("supervised", "full")
    fixed_budget: ClassVar[str | None] = None
    predicts_features: ClassVar[bool] = True

    def __init__(self, task: Task, config: SettingsT) -> None:
        super().__init__(task, config)
        self.network: Segmenter = self.make_network()

    def make_network(self) -> Segmenter:
        """Build the segmentation network; the shared one starts from the same weights in all methods."""
        return build_segmenter(self.task.network, len(self.task.class_map), self.task.tile_px)

    @classmethod
    def planned_settings(cls, plan: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
        """Return the plan's settings for this method; a control may follow the method that it belongs to.

        Args:
            plan: settings of all methods, by method name.
        """
        return dict(plan.get(cls.name, {}))

    @classmethod
    def spending(cls, config: SettingsT) -> Mapping[Supervision, float]:
        """Return the split of a budget in minutes: shares of ``masks`` and ``tags`` that add up to 1.

        By default everything goes to masks if the method consumes them, else to tags, else to nothing. A method that
        learns from both overrides this, with the split as one of its settings::

            return {Supervision.MASKS: config.mask_share, Supervision.TAGS: 1 - config.mask_share}

        Diagnoses are not part of the split: a method that consumes them pays for those of all training patients first.

        The shares also determine which budgets in patients the method can use: those of the kinds that get a share.
        """
        for kind in (Supervision.MASKS, Supervision.TAGS):
            if kind in cls.consumes:
                return {kind: 1.0}
        return {}

    @classmethod
    def can_predict_features(cls, config: SettingsT) -> bool:
        """Whether features may stand in for images in ``predict``: declared by the class whose ``predict`` is called.

        A class that overrides ``predict`` does not inherit ``predicts_features``, which was said of another one.
        """
        said = next(vars(kind) for kind in cls.__mro__ if {"predicts_features", "predict"} & vars(kind).keys())
        return bool(said.get("predicts_features")) and not cls.wants_images(config)

    @classmethod
    def training_of(cls, config: SettingsT, shared: TrainingSettings) -> TrainingSettings:
        """Return the training settings of the last stage: the plan's, unless the method is a published recipe."""
        return in_place_of(shared, config.training, f"methods.{cls.name}.training") if _is_recipe(config) else shared

    @classmethod
    def augmentation_of(cls, config: SettingsT, shared: AugmentSettings) -> AugmentSettings:
        """Return the augmentation settings: the plan's, unless the method is a published recipe."""
        own = config.augmentation if _is_recipe(config) else {}
        return in_place_of(shared, own, f"methods.{cls.name}.augmentation")

    @classmethod
    def epoch_tiles(cls, config: SettingsT) -> Supervision:
        """Return the labels whose tiles make up an epoch of the last stage: masks, or else tags, if it buys them."""
        bought = cls.spending(config)
        return next((kind for kind in (Supervision.MASKS, Supervision.TAGS) if kind in bought), Supervision.NONE)

    @classmethod
    def stages(cls, config: SettingsT, training: TrainingSettings) -> tuple[Stage, ...]:
        """Return the stages before the last one. None by default.

        ``inherit`` receives what each of them has learned; streams may request their pseudo-masks.

        Args:
            config: settings of the method.
            training: training settings of the plan, which a stage inherits where it has none of its own.
        """
        return ()

    def predict(self, images: Tensor | Encoded) -> Tensor:
        """Return class probabilities (B, K, H, W) float32 of images (B, 3, H, W) uint8; the evaluator's only call.

        With cached features of a frozen encoder, these stand in for the images, if ``can_predict_features`` allows it.
        """
        logits: Tensor = self.network(images)
        return logits.float().softmax(dim=1)

    def validation_step(self, batch: Scorable, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Have a slide of held-out patients scored; called by Lightning, not to be overridden."""
        batch.score(self)

    def annotated_stream(self) -> Stream:
        """Return the stream of tiles with masks that all methods share."""
        return Stream(Supervision.MASKS, self.task.training.batch_size)


def masked_cross_entropy(logits: Tensor, masks: Tensor) -> Tensor:
    """Cross-entropy averaged over all labelled pixels of the batch; a graph-connected 0 if there are none.

    ``-1/|V| sum over V of log p_y``; V includes the pixels held by other processes.

    Args:
        logits: (B, K, H, W).
        masks: (B, H, W) int64, ``IGNORE_LABEL`` where unlabelled.

    Returns:
        () float32.

    Examples:
        >>> import torch
        >>> logits, masks = torch.zeros(2, 4, 8, 8), torch.zeros(2, 8, 8, dtype=torch.int64)
        >>> round(masked_cross_entropy(logits, masks).item(), 4)  # log 4
        1.3863
    """
    summed = pixel_nll(logits.float().log_softmax(dim=1), masks, "sum")
    return pooled(summed, (masks != IGNORE_LABEL).sum())
