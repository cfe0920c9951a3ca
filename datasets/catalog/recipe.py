"""Recipe of a dataset: its source, classes and reading options."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tissuebench.datasets.color.white_background import WhiteBackground
from tissuebench.datasets.manifest import BadRow, ManifestRow
from tissuebench.datasets.types import ClassMap, FrameName, LabelCosts
from tissuebench.datasets.weak_labels import MIN_SHARE

GIB = 2**30


Generate = Callable[[Path, Callable[[int, int], None]], None]
"""Write source files into an empty folder, reporting how many of how many are done."""


@dataclass(frozen=True, slots=True)
class Download:
    """One archive of a dataset.

    Attributes:
        file_name: name below the dataset's ``raw`` folder; a zip or a tar.
        url: download address; None if the archive must be downloaded manually, see ``Recipe.by_hand``.
        sha256, md5: required hex digest; sha256 takes precedence. If both are None no digest is published: the digest
            of the first download is recorded next to the file, and later files must match it.
        unpacked_bytes: maximum size when unpacked; larger archives are refused.
    """

    file_name: str
    url: str | None = None
    sha256: str | None = None
    md5: str | None = None
    unpacked_bytes: int = 20 * GIB


@dataclass(frozen=True, slots=True)
class Recipe:
    """Description of a dataset and how to bring it into a store.

    Attributes:
        name: folder name below ``data/`` and the name in every result; ``name@56`` if the tiles do not have the
            recipe's own size.
        version: increased whenever the same source would give a different store.
        title, licence, source: shown to users; ``source`` says where the files come from.
        class_map: classes and diagnoses.
        tile_px: edge length of a training tile at ``mpp``.
        mpp: resolution of the store; None keeps the pixels unchanged.
        rows: reads the slides of the source folder; sets ``split`` on all rows or on none. An unusable slide is a
            ``BadRow``; only errors of the source as a whole are raised.
        generate: writes the source folder, for embedded datasets.
        costs: assumed cost of a label of this dataset.
        split_name: name of the split that ``rows`` declares; None is ``<name>-official``. A published split that leaks
            has its own recipe: there the image is the unit, not the patient, and the name says so.
        notes: reports what ``rows`` left out of a source folder and why, one line each; None if it leaves out nothing.
        drawing_order: class names of polygon files, from first to last drawn, so that later ones cover earlier ones;
            None draws them in file order.
        instance_class: for label images of instances: any value above 0 is this class, 0 is class 0 of the class map.
            None if the values are class ids.
        region_class: class of all polygons, whatever the file calls them; None uses the file's names.
        background: class of the pixels that no polygon covers; None leaves them unannotated.
        ignore_index: value of a label image that means "not annotated", in addition to 255; None if there is none.
        frame: coordinates of the annotations, where a slide's scanned part is less than its level 0.
        class_names: class that a name in polygon files stands for, None leaves its regions out. A key is a name or a
            pattern (``Region*``); patterns are for names that neither the table nor the class map has.
        mask_values: class that each value of a label image stands for, None is "not annotated"; if empty, the values
            are class ids and 255 is "not annotated", and a mask of 0 and 255 alone is refused.
        downloads: the archives, in the order in which they are unpacked; empty if there is nothing to fetch.
        by_hand: instructions for downloading manually the archives whose ``url`` is None, or whose server refuses.
        min_tag_share: minimum share of a tile's annotated pixels for a tag to name a class, 0..1.
        white: rule for pixels that are background by their colour; None if white may be tissue.
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
    generate: Generate | None = None
    costs: LabelCosts = field(default_factory=LabelCosts)
    split_name: str | None = None
    notes: Callable[[Path], tuple[str, ...]] | None = None
    drawing_order: tuple[str, ...] | None = None
    instance_class: str | None = None
    region_class: str | None = None
    background: str | None = None
    ignore_index: int | None = None
    frame: FrameName = "auto"
    class_names: Mapping[str, str | None] = field(default_factory=dict)
    mask_values: Mapping[int, str | None] = field(default_factory=dict)
    downloads: tuple[Download, ...] = ()
    by_hand: str = ""
    min_tag_share: float = MIN_SHARE
    white: WhiteBackground | None = None

    @property
    def plain_name(self) -> str:
        """Name without a tile size: source files and split are the same for all sizes."""
        return self.name.partition("@")[0]

    def __post_init__(self) -> None:
        if not 0 <= self.min_tag_share <= 1:
            raise ValueError(f"recipe {self.name!r}: min_tag_share is {self.min_tag_share}, which is no share (0 to 1)")
        white = None if self.white is None else self.white.label
        mapped = (*self.class_names.values(), *self.mask_values.values())
        named = (self.instance_class, self.region_class, self.background, white, *mapped, *(self.drawing_order or ()))
        for name in named:
            if name is not None and name not in self.class_map.names:
                raise ValueError(f"recipe {self.name!r} names the class {name!r}, which its class map does not have")
