"""OME-Zarr 0.5 output of a predicted slide: its full-size labels, below a small picture of the slide.

OME-NGFF requires a group ``labels`` inside an image, with as many levels as the image has. The image is a small picture
of the slide: it shows where one is without copying the slide itself. Both state the size of their pixels.

Source of the format: OME-NGFF 0.5, sections ``labels`` and ``image-label``.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from tissuebench.common.files import write_aside
from tissuebench.datasets.store.pyramid import Codec, PyramidWriter, blocks, level_shapes
from tissuebench.datasets.store.shards import Pixels
from tissuebench.datasets.types import IGNORE_LABEL, ClassMap
from tissuebench.prediction.label_blocks import Labels

LABEL = "prediction"
PICTURE_PX = 4096
"""Maximum length of the picture's longer side."""
_CODEC: Codec = "lz4"
_METADATA = "zarr.json"


def write_label_pyramid(
    folder: Path, labels: Labels, class_map: ClassMap, mpp: float | None, picture: Pixels, picture_scale: float
) -> None:
    """Write the image into ``folder``, created here, and the labels into ``folder``/labels/prediction.

    Args:
        folder: folder of the image; its name should end with ``.ome.zarr``.
        labels: labels of the slide; value i is class i, 255 is not predicted.
        class_map: names and colours, which viewers show.
        mpp: micrometres per pixel of ``labels``; None if unknown, which counts in pixels.
        picture: (h, w, 3) uint8 RGB of the whole slide.
        picture_scale: pixels of ``labels`` per pixel of the picture.
    """
    size = (labels.height, labels.width)
    n_levels = len(level_shapes(*size))
    scale, unit = (1.0, "") if mpp is None else (mpp, "micrometer")
    height, width = picture.shape[:2]
    image = PyramidWriter(folder, (3,), (height, width), n_levels, scale * picture_scale, unit, _CODEC)
    planes = picture.transpose(2, 0, 1)
    for y, x, rows, columns in blocks(height, width):
        image.write(np.ascontiguousarray(planes[:, y : y + rows, x : x + columns]), y, x)
    image.finish()
    _write_group(folder / "labels", {"version": "0.5", "labels": [LABEL]})
    target = folder / "labels" / LABEL
    raster = PyramidWriter(target, (), size, n_levels, scale, unit, _CODEC, LABEL, class_map.colors)
    for block in blocks(*size):
        raster.write(labels.read(*block), *block[:2])
    raster.finish()
    _add_names(target, class_map)


def _write_group(folder: Path, ome: dict[str, Any]) -> None:
    folder.mkdir()
    group = {"zarr_format": 3, "node_type": "group", "attributes": {"ome": ome}}
    write_aside(folder / _METADATA, json.dumps(group, indent=1).encode())


def _add_names(folder: Path, class_map: ClassMap) -> None:
    """Add the names of the values, and make 255 transparent."""
    path = folder / _METADATA
    group = json.loads(path.read_text())
    described = group["attributes"]["ome"]["image-label"]
    described["colors"].append({"label-value": IGNORE_LABEL, "rgba": [0, 0, 0, 0]})
    named = [*enumerate(class_map.names), (IGNORE_LABEL, "not predicted")]
    described["properties"] = [{"label-value": value, "class": name} for value, name in named]
    write_aside(path, json.dumps(group, indent=1).encode())
