"""Plain values that every layer may know: supervision kinds, class maps, tiles, batches."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import TYPE_CHECKING, Generic, Literal, Self, TypeVar, overload

if TYPE_CHECKING:
    import torch

IGNORE_LABEL = 255
"""Label value of a pixel that nobody annotated. It is never trained on and never counted."""

StainNormalisation = Literal["none", "macenko", "reinhard"]
"""How slides were brought to one stain when they were ingested."""


class Supervision(StrEnum):
    """What a label says. A closed set: every method declares which of these it consumes."""

    NONE = "none"
    DIAGNOSIS = "diagnosis"
    TAGS = "tags"
    MASKS = "masks"


@dataclass(frozen=True, slots=True)
class LabelCosts:
    """What an annotator's time is assumed to be worth; printed beside every table as an assumption."""

    mask_minutes_per_tile: float = 2.0
    tags_minutes_per_tile: float = 0.05
    diagnosis_minutes_per_case: float = 0.0


@dataclass(frozen=True, slots=True)
class ClassMap:
    """The classes of a dataset and what its diagnoses say about them.

    Attributes:
        names: class names; the position is the label value (0-based, fewer than 255).
        colors: one RGB triple (0..255) a class.
        diagnoses: for each diagnosis, the diagnosis-dependent classes that it allows. The union over all diagnoses
            is the set T of classes that some diagnosis can exclude; classes outside T (stroma, glass) are shared.
    """

    names: tuple[str, ...]
    colors: tuple[tuple[int, int, int], ...]
    diagnoses: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if len(self.names) != len(set(self.names)) or not 2 <= len(self.names) < IGNORE_LABEL:
            raise ValueError(f"class names must be 2 to {IGNORE_LABEL - 1} and differ: {self.names}")
        if len(self.colors) != len(self.names):
            raise ValueError(f"{len(self.names)} classes but {len(self.colors)} colours")
        unknown = {name for allowed in self.diagnoses.values() for name in allowed} - set(self.names)
        if unknown:
            raise ValueError(f"diagnoses allow classes that do not exist: {sorted(unknown)}")

    def __len__(self) -> int:
        return len(self.names)

    @property
    def dependent(self) -> tuple[bool, ...]:
        """T as one flag a class: True where some diagnosis can exclude the class."""
        union = {name for allowed in self.diagnoses.values() for name in allowed}
        return tuple(name in union for name in self.names)


@dataclass(frozen=True, slots=True)
class Tile:
    """A square region of one slide at the store's mpp; ``y``, ``x`` are its upper left pixel."""

    slide_id: str
    y: int
    x: int


@dataclass(frozen=True, slots=True)
class Stream:
    """One source of tiles in a training step: which label its tiles carry, and how many a step.

    ``max_excluded`` keeps at most so many of the classes that a case's diagnosis excludes: the same ones at every
    step, as an annotator who says less would. ``pseudo`` names an earlier stage: only tiles that it annotated are
    drawn, and they carry its pseudo-masks beside their label.
    """

    supervision: Supervision
    batch_size: int
    balanced: bool = True
    max_excluded: int | None = None
    pseudo: str | None = None

    @property
    def batch_type(self) -> type[TileBatch]:
        """The batches that it gives: those in which its label is never absent."""
        return PseudoMaskBatch if self.pseudo is not None else _BATCH_TYPES[self.supervision]


@dataclass(frozen=True, slots=True)
class TileBatch:
    """The tiles that one stream contributes to one step.

    Attributes:
        images: (B, 3, H, W) uint8 from the store, float in 0..1 once augmented; absent in training when ``features``
            stand in, and there beside them where tiles are annotated.
        features: maps of a frozen encoder, finest first, each (B, C_i, H_i, W_i); absent where none are cached.
        masks: (B, H, W) class ids, ``IGNORE_LABEL`` where unlabelled, uint8 from the store, int64 on the device; only
            for a ``masks`` stream.
        tags: (B, K) bool, classes present in the tile, none where each covers too little; only for a ``tags`` stream.
        excluded: (B, K) bool, classes the diagnosis excludes; only for a ``diagnosis`` stream.
        pseudo_masks: (B, L, H, W) class ids that an earlier stage gave the tile, typed as ``masks``; only for a
            stream with ``pseudo``.
        step: the optimiser step that the batch belongs to.
        offset: index of the first tile in the stream's whole batch, which several processes may share.
        total: tiles of the whole batch over all processes; 0 says that these are all.
    """

    step: int
    images: torch.Tensor | None = None
    features: tuple[torch.Tensor, ...] | None = None
    masks: torch.Tensor | None = None
    tags: torch.Tensor | None = None
    excluded: torch.Tensor | None = None
    pseudo_masks: torch.Tensor | None = None
    offset: int = 0
    total: int = 0

    @property
    def inputs(self) -> torch.Tensor | tuple[torch.Tensor, ...]:
        """What a network is called with: images, or the cached features that stand in for them."""
        if self.features is not None:
            return self.features
        return self.pixels

    @property
    def pixels(self) -> torch.Tensor:
        """The images, where nothing stands in for them.

        Raises:
            ValueError: features were cached instead; a method that needs pixels says so in ``wants_images``.
        """
        if self.images is None:
            raise ValueError("these tiles have cached features in place of images; override wants_images to get images")
        return self.images

    def to(self, device: torch.device | str, non_blocking: bool = False) -> TileBatch:
        """The batch with all tensors on ``device``."""

        def move(tensor: torch.Tensor | None) -> torch.Tensor | None:
            return None if tensor is None else tensor.to(device, non_blocking=non_blocking)

        features = self.features
        if features is not None:
            features = tuple(feature.to(device, non_blocking=non_blocking) for feature in features)
        return replace(
            self,
            images=move(self.images),
            features=features,
            masks=move(self.masks),
            tags=move(self.tags),
            excluded=move(self.excluded),
            pseudo_masks=move(self.pseudo_masks),
        )

    def pin_memory(self) -> TileBatch:
        """The batch in page-locked memory, for asynchronous copies to a GPU."""

        def pin(tensor: torch.Tensor | None) -> torch.Tensor | None:
            return None if tensor is None else tensor.pin_memory()

        features = None if self.features is None else tuple(feature.pin_memory() for feature in self.features)
        return replace(
            self,
            images=pin(self.images),
            features=features,
            masks=pin(self.masks),
            tags=pin(self.tags),
            excluded=pin(self.excluded),
            pseudo_masks=pin(self.pseudo_masks),
        )


@dataclass(frozen=True, slots=True)
class MaskBatch(TileBatch):
    """Tiles of a ``masks`` stream."""

    masks: torch.Tensor = field(kw_only=True)


@dataclass(frozen=True, slots=True)
class TagBatch(TileBatch):
    """Tiles of a ``tags`` stream."""

    tags: torch.Tensor = field(kw_only=True)


@dataclass(frozen=True, slots=True)
class DiagnosisBatch(TileBatch):
    """Tiles of a ``diagnosis`` stream."""

    excluded: torch.Tensor = field(kw_only=True)


@dataclass(frozen=True, slots=True)
class PseudoMaskBatch(TileBatch):
    """Tiles of a stream with ``pseudo``."""

    pseudo_masks: torch.Tensor = field(kw_only=True)


_BATCH_TYPES: Mapping[Supervision, type[TileBatch]] = {
    Supervision.NONE: TileBatch,
    Supervision.DIAGNOSIS: DiagnosisBatch,
    Supervision.TAGS: TagBatch,
    Supervision.MASKS: MaskBatch,
}
BatchT = TypeVar("BatchT", bound=TileBatch)


class StreamName(str, Generic[BatchT]):
    """The name of a stream, which also knows what its batches carry: ``batch[NAME]`` has that type.

    Example:
        >>> DIAGNOSED = StreamName("diagnosed", DiagnosisBatch)
        >>> DIAGNOSED == "diagnosed"
        True
    """

    batch_type: type[BatchT]

    def __new__(cls, name: str, batch_type: type[BatchT]) -> Self:
        """A ``str`` cannot be changed later."""
        made = super().__new__(cls, name)
        made.batch_type = batch_type
        return made

    def __getnewargs__(self) -> tuple[str, type[BatchT]]:  # type: ignore[override]
        """For pickling: batches are loaded by other processes."""
        return str(self), self.batch_type


class TrainingBatch(dict[str, TileBatch]):
    """One step's tiles by stream name."""

    if TYPE_CHECKING:

        @overload
        def __getitem__(self, name: StreamName[BatchT]) -> BatchT: ...

        @overload
        def __getitem__(self, name: str) -> TileBatch: ...

        def __getitem__(self, name: str) -> TileBatch:
            """The tiles of one stream."""
            ...
