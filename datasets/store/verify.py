"""Verification of a whole store: every pixel is compared with what was sealed."""

from __future__ import annotations

from typing import Any, cast

from tissuebench.datasets.documents import read_hashed_json
from tissuebench.datasets.store.digest import RasterDigest, array_digest
from tissuebench.datasets.store.pyramid import blocks
from tissuebench.datasets.store.tile_store import MANIFEST, TileStore
from tissuebench.errors import DataError


def verify(store: TileStore) -> None:
    """Compare images, labels, tissue and tile tables with the hashes in the manifest, block by block.

    Raises:
        DataError: a slide's pixels differ from those that were sealed.
    """
    document = cast("dict[str, Any]", read_hashed_json(store.path / MANIFEST)[0])
    for record in document["slides"]:
        slide = store.slides[record["slide_id"]]
        image = RasterDigest((3, slide.height, slide.width))
        labels = RasterDigest((slide.height, slide.width))
        for y, x, height, width in blocks(slide.height, slide.width):
            image.update(store.image(slide.slide_id, y, x, height, width))
            labels.update(store.withheld.mask(slide.slide_id, y, x, height, width))
        found = {
            "image_sha256": image.hexdigest(),
            "label_sha256": labels.hexdigest(),
            "tissue_sha256": array_digest(store.tissue(slide.slide_id)),
            "tiles_sha256": array_digest(
                store.tile_tissue(slide.slide_id), store.withheld.tile_class_pixels(slide.slide_id)
            ),
        }
        for key, digest in found.items():
            if digest != record[key]:
                name = key.removesuffix("_sha256")
                raise DataError(f"{store.path}: slide {slide.slide_id} has changed since it was sealed ({name})")
