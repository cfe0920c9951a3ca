"""Plain value types shared by all layers: supervision kinds, class maps, tiles, batches."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Generic, Literal, Self, TypeVar, get_args, overload

if TYPE_CHECKING:
    import torch

IGNORE_LABEL = 255
"""Label value of an unannotated pixel. It is never trained on and never counted."""

StainNormalisation = Literal["none", "macenko", "reinhard"]
"""Stain normalisation applied to the slides at ingest."""

FrameName = Literal["auto", "slide", "bounds"]
"""Coordinates of an annotation: pixels of the whole level 0 (``slide``), or of its scanned part, to which QuPath crops
a slide (``bounds``). ``auto`` is ``bounds`` for GeoJSON and for masks of that size, ``slide`` for everything else."""
FRAMES: tuple[FrameName, ...] = get_args(FrameName)


class Supervision(StrEnum):
    """Kind of supervision; a closed set: every method declares which of these kinds it consumes.

    ``none``: no label. ``diagnosis``: diagnoses of a case. ``tags``: classes present in a tile. ``masks``: class of
    each pixel.
    """

    NONE = "none"
    DIAGNOSIS = "diagnosis"
    TAGS = "tags"
    MASKS = "masks"


@dataclass(frozen=True, slots=True)
class LabelCosts:
    """Assumed costs of labels in an annotator's minutes; printed with every table as an assumption.

    Attributes:
        mask_minutes_per_tile: time for the mask of one tile.
        tags_minutes_per_tile: time for the tags of one tile.
        diagnosis_minutes_per_case: time for one patient's diagnosis; 0: it is in the report.
        opening_minutes_per_slide: time to open one more slide, spent with the first of its tiles, once for masks and
            once for tags; 0: all time is spent on tiles.

    Raises:
        ValueError: a cost is negative or not finite.
    """

    mask_minutes_per_tile: float = 2.0
    tags_minutes_per_tile: float = 0.05
    diagnosis_minutes_per_case: float = 0.0
    opening_minutes_per_slide: float = 0.0

    def __post_init__(self) -> None:
        for name, minutes in asdict(self).items():
            if not 0 <= minutes < math.inf:
                raise ValueError(f"{name} is {minutes:g}; a label costs 0 minutes or more")

    def document(self) -> dict[str, float]:
        """Return the costs as stored with a dataset; opening slides for nothing is left out, as in older stores."""
        costs = asdict(self)
        if not self.opening_minutes_per_slide:
            del costs["opening_minutes_per_slide"]
        return costs


@dataclass(frozen=True, slots=True)
class ClassMap:
    """Classes of a dataset, and the constraints that its diagnoses put on them.

    Attributes:
        names: class names; the position is the label value (0-based, fewer than 255).
        colors: one RGB triple (0..255) per class.
        diagnoses: for each diagnosis, the diagnosis-dependent classes that it allows. The union over all diagnoses
            is the set T of classes that some diagnosis can exclude; classes outside T (stroma, glass) are shared.

    Examples:
        >>> colors = ((240, 150, 180), (200, 40, 40), (240, 140, 20))
        >>> class_map = ClassMap(("stroma", "tumour_a", "tumour_b"), colors, {"A": ("tumour_a",), "B": ("tumour_b",)})
        >>> class_map.dependent
        (False, True, True)
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
        """The set T as one flag per class: True if some diagnosis can exclude the class."""
        union = {name for allowed in self.diagnoses.values() for name in allowed}
        return tuple(name in union for name in self.names)


@dataclass(frozen=True, slots=True)
class Tile:
    """Square region of one slide at the store's mpp; ``y``, ``x`` are its upper left pixel."""

    slide_id: str
    y: int
    x: int


@dataclass(frozen=True, slots=True)
class Stream:
    """Source of tiles in a training step: the label that its tiles carry, and the number of tiles per step.

    Attributes:
        supervision: kind of label.
        batch_size: tiles per step.
        balanced: whether classes, or cases, are sampled equally often.
        max_excluded: maximum number of excluded classes per case; the same ones are kept at every step, as if the
            diagnosis were less informative.
        pseudo: name of an earlier stage: only tiles that it annotated are drawn, and they carry its pseudo-masks in
            addition to their label.
        augmentation: settings of the augmentation that differ from the plan's, by name; refused if cached features
            replace images, as these were augmented when they were computed.
        shuffled: whether each tile of the stream is drawn once in an epoch, in an order drawn anew for each; a batch
            may span two epochs. ``balanced`` then has no effect.
    """

    supervision: Supervision
    batch_size: int
    balanced: bool = True
    max_excluded: int | None = None
    pseudo: str | None = None
    augmentation: Mapping[str, Any] = field(default_factory=dict, hash=False)
    shuffled: bool = False

    @property
    def is_grouped(self) -> bool:
        """Whether a draw goes through groups of tiles, of classes or cases, rather than over all tiles alike."""
        return self.balanced and not self.shuffled

    @property
    def batch_type(self) -> type[TileBatch]:
        """Batch type of the stream, in which its label is never None."""
        return PseudoMaskBatch if self.pseudo is not None else _BATCH_TYPES[self.supervision]


@dataclass(frozen=True, slots=True)
class TileBatch:
    """Tiles that one stream contributes to one step.

    Attributes:
        images: (B, 3, H, W) uint8 from the store, float in 0..1 after augmentation; None in training if ``features``
            replace them, but present alongside features when tiles are annotated.
        features: maps of a frozen encoder, finest first, each (B, C_i, H_i, W_i); None if none are cached.
        masks: (B, H, W) class ids, ``IGNORE_LABEL`` where unlabelled, uint8 from the store, int64 on the device; only
            for a ``masks`` stream.
        tags: (B, K) bool, classes present in the tile, none if each covers too little; only for a ``tags`` stream.
        excluded: (B, K) bool, classes that the diagnosis excludes; only for a ``diagnosis`` stream.
        excluded_on_host: ``excluded`` on the CPU, once the batch is on another device.
        pseudo_masks: (B, L, H, W) class ids from an earlier stage, with the dtypes of ``masks``; only for a stream with
            ``pseudo``.
        step: the optimiser step that the batch belongs to.
        offset: index of the first tile in the stream's whole batch, which may be spread over several processes.
        total: number of tiles of the whole batch over all processes; 0 if these are all.
    """

    step: int
    images: torch.Tensor | None = None
    features: tuple[torch.Tensor, ...] | None = None
    masks: torch.Tensor | None = None
    tags: torch.Tensor | None = None
    excluded: torch.Tensor | None = None
    excluded_on_host: torch.Tensor | None = None
    pseudo_masks: torch.Tensor | None = None
    offset: int = 0
    total: int = 0

    @property
    def inputs(self) -> torch.Tensor | tuple[torch.Tensor, ...]:
        """Input of a network: images, or the cached features that replace them."""
        if self.features is not None:
            return self.features
        return self.pixels

    @property
    def pixels(self) -> torch.Tensor:
        """The images, if features do not replace them.

        Raises:
            ValueError: features were cached instead; a method that needs images declares it in ``wants_images``.
        """
        if self.images is None:
            raise ValueError("these tiles have cached features in place of images; override wants_images to get images")
        return self.images

    @property
    def excluded_sets(self) -> torch.Tensor:
        """``excluded`` on the CPU, for code that decides by its values: reading them from a GPU would wait for it.

        Raises:
            ValueError: the tiles are not of a ``diagnosis`` stream.
        """
        found = self.excluded if self.excluded_on_host is None else self.excluded_on_host
        if found is None:
            raise ValueError("these tiles have no excluded classes; only those of a diagnosis stream do")
        return found

    @property
    def whole(self) -> int:
        """Number of tiles of the stream's whole batch, over all processes."""
        return self.total or self._own

    @property
    def _own(self) -> int:
        """Number of tiles of this process."""
        inputs = self.inputs
        return len(inputs[0] if isinstance(inputs, tuple) else inputs)

    def part_of(self, drawn: torch.Tensor) -> torch.Tensor:
        """Return the rows of this process's tiles, given one row for each of the ``whole`` tiles.

        Random numbers are drawn for the whole batch, so that several processes draw together what one would.

        Examples:
            >>> import torch
            >>> batch = TileBatch(step=0, images=torch.zeros(2, 3, 8, 8), offset=4, total=6)
            >>> batch.part_of(torch.arange(batch.whole))
            tensor([4, 5])
        """
        return drawn[self.offset : self.offset + self._own]

    def tensors(self) -> Iterator[torch.Tensor]:
        """Return all tensors of the tiles but ``excluded_on_host``."""
        yield from self.features or ()
        for name in _TENSORS:
            tensor = getattr(self, name)
            if tensor is not None:
                yield tensor

    def to(self, device: torch.device | str, non_blocking: bool = False) -> TileBatch:
        """Return the batch with all tensors on ``device``; from another one, ``excluded`` is also kept on the CPU."""
        moved = self._changed(lambda tensor: tensor.to(device, non_blocking=non_blocking))
        if str(device).startswith("cpu"):
            return replace(moved, excluded_on_host=None)
        is_here = self.excluded is not None and self.excluded.device.type == "cpu"
        return replace(moved, excluded_on_host=self.excluded if is_here else self.excluded_on_host)

    def pin_memory(self) -> TileBatch:
        """Return the batch in page-locked memory, for asynchronous copies to a GPU."""
        return self._changed(lambda tensor: tensor.pin_memory())

    def _changed(self, change: Callable[[torch.Tensor], torch.Tensor]) -> TileBatch:
        changed: dict[str, Any] = {}
        if self.features is not None:
            changed["features"] = tuple(change(feature) for feature in self.features)
        for name in _TENSORS:
            tensor = getattr(self, name)
            if tensor is not None:
                changed[name] = change(tensor)
        return replace(self, **changed)


_TENSORS = ("images", "masks", "tags", "excluded", "pseudo_masks")


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
    """Name of a stream that carries the type of its batches: ``batch[NAME]`` has that type.

    Examples:
        >>> DIAGNOSED = StreamName("diagnosed", DiagnosisBatch)
        >>> DIAGNOSED == "diagnosed"
        True
    """

    batch_type: type[BatchT]

    def __new__(cls, name: str, batch_type: type[BatchT]) -> Self:
        """Create the name with its batch type; a ``str`` is immutable, so this cannot be done in ``__init__``."""
        made = super().__new__(cls, name)
        made.batch_type = batch_type
        return made

    def __getnewargs__(self) -> tuple[str, type[BatchT]]:  # type: ignore[override]
        """Return the arguments for unpickling, as batches are loaded by other processes."""
        return str(self), self.batch_type


class TrainingBatch(dict[str, TileBatch]):
    """Tiles of one step, by stream name."""

    def to(self, device: torch.device | str, non_blocking: bool = False) -> TrainingBatch:
        """Return the batch with all tensors on ``device``."""
        return TrainingBatch((name, tiles.to(device, non_blocking)) for name, tiles in self.items())

    if TYPE_CHECKING:

        @overload
        def __getitem__(self, name: StreamName[BatchT]) -> BatchT: ...

        @overload
        def __getitem__(self, name: str) -> TileBatch: ...

        def __getitem__(self, name: str) -> TileBatch:
            """Return the tiles of one stream."""
            ...
