"""Settings of the training augmentation. Never imports torch."""

from __future__ import annotations

from enum import StrEnum
from typing import Self

from pydantic import Field, model_validator

from tissuebench.common.hashing import Json
from tissuebench.common.settings import Settings
from tissuebench.errors import ConfigError

N_ORIENTATIONS = 8
_FIRST = {"color", "hue", "scale", "blur", "stain"}
"""Settings of the first release."""


class Orientations(StrEnum):
    """Symmetries of the square among which each sample's orientation is drawn, all equally likely.

    ``none``: the image as it is. ``horizontal``: it and its left-right mirror image. ``flips``: each axis mirrored with
    probability .5, independently. ``rotations``: the four right angles. ``dihedral``: all eight symmetries.
    """

    NONE = "none"
    HORIZONTAL = "horizontal"
    FLIPS = "flips"
    ROTATIONS = "rotations"
    DIHEDRAL = "dihedral"

    @property
    def members(self) -> tuple[int, ...]:
        """The orientations of the set, as numbers that ``orient`` takes; the first is the identity."""
        return _MEMBERS[self]


_MEMBERS = {
    Orientations.NONE: (0,),
    Orientations.HORIZONTAL: (0, 4),
    Orientations.FLIPS: (0, 4, 6, 2),
    Orientations.ROTATIONS: (0, 1, 2, 3),
    Orientations.DIHEDRAL: tuple(range(N_ORIENTATIONS)),
}


class ColorJitter(StrEnum):
    """Formulas of the colour jitter.

    ``additive``: brightness is added to the values, contrast multiplies them, saturation multiplies that of HSV.
    ``torchvision``: brightness multiplies the values; contrast and saturation blend with the mean grey value and the
    grey image. Both change hue alike.
    """

    ADDITIVE = "additive"
    TORCHVISION = "torchvision"


class BlurSigma(StrEnum):
    """Sigma of the blur: ``uniform``, drawn between ``blur_from`` and ``blur``; ``per_axis``, fixed.

    ``per_axis`` blurs by ``blur_from`` along the rows and by ``blur`` along the columns.
    """

    UNIFORM = "uniform"
    PER_AXIS = "per_axis"


class AugmentSettings(Settings):
    """Kinds of augmentation and their strength; 0 disables a kind. Part of a trial's identity.

    Published recipes, as their official code has them:

    - WSSS-Tissue, classifier: ``orientations: flips``; segmentation: ``orientations: horizontal, blur: 1,
      blur_probability: 0.5`` (PIL's radius is the sigma). Both with ``color: 0, hue: 0``.
    - GenSelfDiff-HIS, pre-training: ``orientations: flips, color: 0, hue: 0``; fine-tuning, in addition
      ``blur_kernel: 3, blur_from: 1, blur: 2, blur_sigma: per_axis, blur_probability: 0.3`` (to torchvision, the code's
      two sigmas are those of the axes, not a range) and ``jitter: torchvision, brightness: 0.5, contrast: 0.4,
      saturation: 0, color_probability: 0.3``.
    - ACTION: ``orientations: none, color: 0, hue: 0``; its strong view is a setting of the method.

    Attributes:
        orientations: right angles and flips, see ``Orientations``.
        color: maximum relative change of brightness, contrast and saturation.
        brightness, contrast, saturation: the same for each of them; null uses ``color``.
        hue: maximum change of hue, in turns of the hue circle.
        jitter: formulas of these changes, see ``ColorJitter``.
        color_probability: share of the samples whose colours change.
        scale: zoom between 1 / (1 + scale) and 1 + scale, uniform in its logarithm.
        crop_px: edge of a random square crop in pixels, taken of image and labels after the zoom; null: none. Cached
            features cannot be cropped.
        blur: largest sigma of a Gaussian blur, in pixels.
        blur_from: smallest sigma, in pixels.
        blur_sigma: how the two make a sample's sigma, see ``BlurSigma``.
        blur_probability: share of the samples that are blurred.
        blur_kernel: edge of the Gaussian's window in pixels, an odd number; null reaches three times ``blur``.
        stain: haematoxylin, eosin and DAB are each multiplied by U(1 - stain, 1 + stain) and shifted by
            U(-stain, stain), see ``jitter_stains``. Published strengths are .05 and .2.

    Examples:
        >>> AugmentSettings(orientations="flips", color=0, hue=0, blur=1, blur_probability=0.5).orientations.members
        (0, 4, 6, 2)
    """

    orientations: Orientations = Orientations.DIHEDRAL
    color: float = Field(0.2, ge=0, le=0.9)
    brightness: float | None = Field(None, ge=0, le=0.9)
    contrast: float | None = Field(None, ge=0, le=0.9)
    saturation: float | None = Field(None, ge=0, le=0.9)
    hue: float = Field(0.03, ge=0, le=0.5)
    jitter: ColorJitter = ColorJitter.ADDITIVE
    color_probability: float = Field(1, ge=0, le=1)
    scale: float = Field(0, ge=0, le=1)
    crop_px: int | None = Field(None, ge=1)
    blur: float = Field(0, ge=0, le=8)
    blur_from: float = Field(0, ge=0, le=8)
    blur_sigma: BlurSigma = BlurSigma.UNIFORM
    blur_probability: float = Field(1, ge=0, le=1)
    blur_kernel: int | None = Field(None, ge=1, le=63)
    stain: float = Field(0, ge=0, le=0.9)

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.blur_from > self.blur:
            raise ValueError(f"blur_from ({self.blur_from:g}) is larger than blur ({self.blur:g}), the largest sigma")
        if self.blur_kernel is not None and self.blur_kernel % 2 == 0:
            raise ValueError(f"blur_kernel ({self.blur_kernel}) must be odd, so that the window has a middle")
        return self

    def identity(self) -> dict[str, Json]:
        """Return the settings that determine the result.

        Those that came after the first release are left out at their default, which is what was done before them.
        """
        settings, defaults = self.stored(), AugmentSettings().stored()
        return {name: value for name, value in settings.items() if name in _FIRST or value != defaults[name]}

    @property
    def color_strengths(self) -> tuple[float, float, float, float]:
        """Maximum change of brightness, contrast, saturation and hue."""
        own = (self.brightness, self.contrast, self.saturation)
        brightness, contrast, saturation = (self.color if each is None else each for each in own)
        return brightness, contrast, saturation, self.hue

    def check_crop(self, tile_px: int, where: str = "augmentation.crop_px") -> None:
        """Raise ``ConfigError`` if a crop is larger than a tile with an edge of ``tile_px``."""
        if self.crop_px is not None and self.crop_px > tile_px:
            raise ConfigError(
                f"{where}: a crop of {self.crop_px} px is larger than a tile of {tile_px} px; make it "
                "smaller, or ingest the data set with larger tiles"
            )
