"""PNG and JPEG images as slides of one level, without a resolution of their own."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from tissuebench.datasets.readers._raw import ChooseLevel, RawLevel
from tissuebench.errors import DataError

PLAIN_SUFFIXES = (".png", ".jpg", ".jpeg")


def read_plain(path: Path, choose: ChooseLevel) -> RawLevel:
    """Read an image file; see ``read_slide`` for the errors."""
    choose(None, [1.0])
    try:
        with Image.open(path) as image:
            pixels = np.asarray(image.convert("RGB"))
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise DataError(f"{path}: cannot be read as an image ({' '.join(str(error).split())}); replace it") from None
    return RawLevel(pixels, None, (pixels.shape[0], pixels.shape[1]))
