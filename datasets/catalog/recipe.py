"""What a recipe says of a dataset."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tissuebench.datasets.color.white_background import WhiteBackground
from tissuebench.datasets.manifest import BadRow, ManifestRow
from tissuebench.datasets.types import ClassMap, LabelCosts
from tissuebench.datasets.weak_labels import MIN_SHARE

GIB = 2**30


@dataclass(frozen=True, slots=True)
class Download:
    """One archive of a dataset.

    Attributes:
        file_name: its name below the dataset's ``raw`` folder; a zip or a tar.
        url: where it is; None where only a person can get it, as ``Recipe.by_hand`` says.
        sha256, md5: hex digest that it must have; sha256 goes first. Where both are None nobody published one: the
            digest of the first download is recorded beside the file and later files are held to it.
        unpacked_bytes: more than so many bytes unpacked are refused.
    """

    file_name: str
    url: str | None = None
    sha256: str | None = None
    md5: str | None = None
    unpacked_bytes: int = 20 * GIB


@dataclass(frozen=True, slots=True)
class Recipe:
    """How a dataset gets into a store.

    Attributes:
        name: folder name below ``data/`` and the name in every result; ``name@56`` where tiles are not of the recipe's
            own size.
        version: raised when the same source would give another store.
        title, licence, source: shown to people; ``source`` says where the files come from.
        class_map: classes and diagnoses.
        tile_px: edge of a training tile at ``mpp``.
        mpp: resolution of the store; None keeps the pixels as they are.
        rows: reads the source folder's slides; fills ``split`` on all rows or on none. A slide that cannot be used is
            a ``BadRow``; only what is wrong with the source as a whole is raised.
        generate: writes the source folder, for embedded datasets.
        costs: what a label of this dataset is assumed to cost.
        split_name: name of the split that ``rows`` declares; None is ``<name>-official``. A published split that
            leaks has a recipe of its own: there the image is the unit, not the patient, and the name says so.
        notes: what ``rows`` left out of a source folder and why, one line each; None where it leaves out nothing.
        drawing_order: class names of polygon files, drawn first to last, so that later ones cover earlier ones;
            None draws them as the file lists them.
        instance_class: label images hold instances: any value above 0 is this class, 0 is class 0 of the class map.
            None where the values are class ids.
        region_class: every polygon is this class, whatever the file calls it; None takes the file's names.
        background: class of the pixels that no polygon covers; None leaves them not annotated.
        ignore_index: value of a label image that means "not annotated" beside 255; None where there is none.
        downloads: the archives, in the order in which they are unpacked; empty where there is nothing to fetch.
        by_hand: what a person does to get the archives whose ``url`` is None, or whose server refuses.
        min_tag_share: share of a tile's annotated pixels from which on a tag names a class, 0..1.
        white: which pixels are background by their colour; None where white may be tissue.
    """

    name: str
    version: int
    title: str
    licence: str
    source: str
    class_map: ClassMap
    tile_px: int
    mpp: float | None
    rows: Callable[[Path], Sequence[ManifestRow | BadRow]]
    generate: Callable[[Path, Callable[[int, int], None]], None] | None = None
    costs: LabelCosts = field(default_factory=LabelCosts)
    split_name: str | None = None
    notes: Callable[[Path], tuple[str, ...]] | None = None
    drawing_order: tuple[str, ...] | None = None
    instance_class: str | None = None
    region_class: str | None = None
    background: str | None = None
    ignore_index: int | None = None
    downloads: tuple[Download, ...] = ()
    by_hand: str = ""
    min_tag_share: float = MIN_SHARE
    white: WhiteBackground | None = None

    @property
    def plain_name(self) -> str:
        """The name without a tile size: source files and split are the same for all sizes."""
        return self.name.partition("@")[0]

    def __post_init__(self) -> None:
        if not 0 <= self.min_tag_share <= 1:
            raise ValueError(f"recipe {self.name!r}: min_tag_share is {self.min_tag_share}, which is no share (0 to 1)")
        white = None if self.white is None else self.white.label
        named = (self.instance_class, self.region_class, self.background, white, *(self.drawing_order or ()))
        for name in named:
            if name is not None and name not in self.class_map.names:
                raise ValueError(f"recipe {self.name!r} names the class {name!r}, which its class map does not have")
