"""Writing a miniature Leica SCN file: a macro photograph of the whole slide and one scanned part of it."""

from __future__ import annotations

import numpy as np
import tifffile

_IMAGE = """<image name="{name}"><pixels sizeX="{width}" sizeY="{height}">{levels}</pixels>
<view sizeX="{width_nm}" sizeY="{height_nm}" offsetX="{x_nm}" offsetY="{y_nm}" spacingZ="0"/>
<scanSettings><objectiveSettings><objective>{power}</objective></objectiveSettings><illuminationSettings>
<illuminationSource>brightfield</illuminationSource></illuminationSettings></scanSettings></image>"""


def write_scn(path, part, y, x, canvas, mpp=0.5):
    """A slide of ``canvas`` (height, width) px at ``mpp``, of which ``part`` was scanned at (y, x), in two levels."""
    height, width = canvas
    nm = round(mpp * 1000)
    macro = np.full((height // 8, width // 8, 3), 240, np.uint8)
    images = ((macro.shape[:2], 8 * nm, 0, 0, 0.6, (0,)), (part.shape[:2], nm, y * nm, x * nm, 20, (1, 2)))
    described = ""
    for number, ((rows, columns), step, y_nm, x_nm, power, ifds) in enumerate(images):
        levels = "".join(
            f'<dimension sizeX="{columns >> at}" sizeY="{rows >> at}" r="{at}" ifd="{ifd}"/>'
            for at, ifd in enumerate(ifds)
        )
        described += _IMAGE.format(
            name=f"image_{number}", width=columns, height=rows, levels=levels, power=power,
            width_nm=columns * step, height_nm=rows * step, x_nm=x_nm, y_nm=y_nm,
        )  # fmt: skip
    size = f'sizeX="{width * nm}" sizeY="{height * nm}"'
    space = 'xmlns="http://www.leica-microsystems.com/scn/2010/10/01"'
    text = f'<?xml version="1.0"?><scn {space}><collection name="c" {size}>{described}</collection></scn>'
    with tifffile.TiffWriter(path, bigtiff=True) as tiff:
        for number, pixels in enumerate((macro, part, np.ascontiguousarray(part[::2, ::2]))):
            per_cm = 1e4 / (mpp * (8, 1, 2)[number])
            options = {"description": text} if number == 0 else {}
            options |= {"resolution": (per_cm, per_cm), "resolutionunit": "CENTIMETER"}
            tiff.write(pixels, photometric="rgb", tile=(64, 64), compression="deflate", metadata=None, **options)
    return path
