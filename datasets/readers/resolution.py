"""Resolution in micrometres per pixel from file metadata: units, plausibility, square pixels."""

from __future__ import annotations

from pathlib import Path

from tissuebench.errors import DataError

PLAUSIBLE_MPP = (0.05, 20.0)
"""Plausible range; values outside are a camera's default (72 dpi) or a missing scale (1 m), not a resolution."""
_SQUARE = 0.01
_MICROMETRES = {
    "nm": 1e-3, "nanometer": 1e-3,
    "µm": 1.0, "μm": 1.0, "um": 1.0, "micrometer": 1.0, "micron": 1.0,
    "mm": 1e3, "millimeter": 1e3,
    "cm": 1e4, "centimeter": 1e4,
    "m": 1e6, "meter": 1e6,
    "inch": 25_400.0, "in": 25_400.0,
}  # fmt: skip


def micrometres(value: float, unit: str) -> float | None:
    """Return a length in micrometres; None if the unit is unknown or not a length (``pixel``)."""
    factor = _MICROMETRES.get(unit)
    return None if factor is None else value * factor


def square_mpp(path: Path, x: float | None, y: float | None) -> float | None:
    """Return one resolution from those of both axes; None if the file gives no plausible one.

    Raises:
        DataError: x and y differ by more than 1 %; distances on such a slide would depend on their direction.
    """
    low, high = PLAUSIBLE_MPP
    if x is None or not low <= x <= high:
        return None
    if y is None:
        return x
    if not abs(x - y) <= _SQUARE * x:
        raise DataError(f"{path}: pixels are not square ({x:g} x {y:g} µm); resample the slide or leave it out")
    return (x + y) / 2
