"""Label images: one class id a pixel, palette or grey."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from tissuebench.datasets.types import IGNORE_LABEL, ClassMap
from tissuebench.errors import DataError


def read_label_image(
    path: Path, class_map: ClassMap, level0_size: tuple[int, int], size: tuple[int, int]
) -> NDArray[np.uint8]:
    """Read class ids; a palette image gives its indices, not its colours.

    Args:
        path: 8-bit palette or grey image of the size of the slide's level 0.
        class_map: its length bounds the ids; ``IGNORE_LABEL`` is allowed everywhere.
        level0_size: (height, width) that the image must have.
        size: (height, width) of the raster wanted, reached by nearest neighbour.

    Raises:
        DataError: missing or unreadable file, another size, another mode, an id outside the class map.
    """
    try:
        with Image.open(path) as image:
            if image.mode not in ("P", "L"):
                raise DataError(f"{path}: a label image is 8-bit palette or grey, this is {image.mode!r}")
            found_size = (image.height, image.width)
            if found_size != level0_size:
                raise DataError(
                    f"{path}: mask is {found_size[1]} x {found_size[0]} px but its image is "
                    f"{level0_size[1]} x {level0_size[0]} px"
                )
            resized = image.resize((size[1], size[0]), Image.Resampling.NEAREST)
            labels = np.asarray(resized, dtype=np.uint8)
    except FileNotFoundError:
        raise DataError(f"{path}: no such file; check the manifest's column 'annotation'") from None
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise DataError(f"{path}: cannot be read as an image ({' '.join(str(error).split())}); replace it") from None
    wrong = sorted(set(np.unique(labels).tolist()) - set(range(len(class_map))) - {IGNORE_LABEL})
    if wrong:
        raise DataError(
            f"{path}: mask value {wrong[0]} is outside the class map (0 to {len(class_map) - 1}, "
            f"{IGNORE_LABEL} = not annotated)"
        )
    return labels
