"""Stains as optical densities: colour deconvolution for augmentation, and stain normalisation for ingest."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Literal, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from tissuebench.datasets.color.lab import Floats, lab_to_rgb, rgb_to_lab
from tissuebench.errors import ConfigError, DataError, unknown_name

if TYPE_CHECKING:  # ingest normalises without torch
    from torch import Tensor

Pixels = NDArray[np.uint8]

_RGB_FROM_HED: Final = np.array([[0.65, 0.70, 0.29], [0.07, 0.99, 0.11], [0.27, 0.57, 0.78]])
"""Absorption of R, G, B by haematoxylin, eosin and DAB (rows); Ruifrok & Johnston 2001, as in scikit-image."""

_HED_FROM_RGB: Final = np.linalg.inv(_RGB_FROM_HED)
_DARKEST: Final = 1e-6
"""Lower bound for intensities; its density is the unit of a stain."""

_UNIT: Final = -math.log(_DARKEST)

_LIGHT: Final = 240.0
_MIN_DENSITY: Final = 0.15
_ANGLE_PERCENTILES: Final = (1.0, 99.0)
_MAXIMUM_PERCENTILE: Final = 99.0
_DENSITY: Final = -np.log((np.arange(256) + 1.0) / _LIGHT)
"""Optical density of each of the 256 grey levels; a table, so that a pixel's value never depends on its neighbours."""

_MIN_STAINED_PIXELS: Final = 100
_MIN_STAINED_SHARE: Final = 0.02
"""Twice the share above the 99th percentile: with less, the maximum concentration would be measured on glass."""

_MIN_ANGLE_DEGREES: Final = 10.0
"""Minimum angle between two stains: noise of 3 grey levels spreads one stain over 6 to 9, EBHI-Seg has 14 to 40."""

_MIN_DEVIATION: Final = 0.5
"""Minimum standard deviation in L*a*b*: below it, 8-bit rounding errors would be stretched. Real images have 4.8."""


def rgb_to_hed(images: Tensor) -> Tensor:
    """Return haematoxylin, eosin and DAB of each pixel by colour deconvolution: HED = log(RGB) / log(1e-6) · M⁻¹.

    M has the absorption of R, G, B by each stain in its rows: H (.65, .70, .29), E (.07, .99, .11), D (.27, .57, .78).
    Negative amounts, of colours that no mixture of the three produces, are kept, so that ``hed_to_rgb`` restores them;
    scikit-image's ``rgb2hed`` equals this with ``clamp(min=0)``.

    Args:
        images: (..., 3, H, W) float in 0..1.

    Returns:
        (..., 3, H, W), with the dtype and device of ``images``.

    Source: Ruifrok and Johnston, "Quantification of histochemical staining by color deconvolution", 2001.

    Examples:
        >>> import torch
        >>> images = torch.rand(1, 3, 8, 8)
        >>> torch.allclose(hed_to_rgb(rgb_to_hed(images)), images, atol=1e-4)
        True
    """
    return _unmixed(images.clamp(min=_DARKEST).log() / -_UNIT, _HED_FROM_RGB)


def hed_to_rgb(stains: Tensor) -> Tensor:
    """Return RGB = exp(-HED · M · log(1e6)), clamped to 0..1, as scikit-image's ``hed2rgb``; inverts ``rgb_to_hed``."""
    return (_unmixed(stains, _RGB_FROM_HED) * -_UNIT).exp().clamp(0, 1)


def jitter_stains(images: Tensor, factors: Tensor, shifts: Tensor) -> Tensor:
    """Return the images with each stain scaled and shifted per sample: s' = α s + β.

    Args:
        images: (B, 3, H, W) float in 0..1.
        factors: α, (B, 3), for H, E and D.
        shifts: β, (B, 3), in natural optical density, the unit of the paper (1 is log(1e6) times ``rgb_to_hed``'s).

    Returns:
        (B, 3, H, W) in 0..1.

    Source: Tellez et al., "Whole-slide mitosis detection in H&E breast histology using PHH3 as a reference to train
    distilled stain-invariant convolutional networks", 2018; strengths compared in Tellez et al., "Quantifying the
    effects of data augmentation and stain color normalization", 2019: light is .05, strong is .2.
    """
    alpha, beta = (each.to(images, non_blocking=True)[:, :, None, None] for each in (factors, shifts / _UNIT))
    return hed_to_rgb(rgb_to_hed(images) * alpha + beta)


def _unmixed(channels: Tensor, matrix: Floats) -> Tensor:
    """Return ``channel vector @ matrix`` per pixel in a fixed order of summation, unlike a matmul over a batch."""
    result = channels.new_empty(channels.shape)
    first, second, third = channels.unbind(-3)
    for target, column in zip(result.unbind(-3), matrix.T.tolist(), strict=True):
        target.copy_(first * column[0] + second * column[1] + third * column[2])
    return result


class FittedNormaliser(Protocol):
    """Mapping from the colours of one slide to those of the target."""

    def apply(self, image: Pixels) -> Pixels:
        """Return the normalised image, (H, W, 3) uint8 like ``image``; pixelwise, hence applicable block by block."""
        ...


class StainNormaliser(Protocol):
    """Stain normalisation method with its target."""

    def fit(self, pixels: Pixels) -> FittedNormaliser:
        """Measure a slide on a sample of its tissue, (N, 3) uint8.

        Raises:
            DataError: the pixels do not show what needs to be measured.
        """
        ...


def normaliser(name: Literal["macenko", "reinhard"]) -> StainNormaliser:
    """Return a stain normalisation method by name, with the default target of its class.

    Raises:
        ConfigError: no method has this name.

    Examples:
        >>> pixels = np.random.default_rng(0).integers(60, 200, (1000, 3), dtype=np.uint8)
        >>> normaliser("reinhard").fit(pixels).apply(pixels[None]).shape
        (1, 1000, 3)
    """
    if name == "macenko":
        return Macenko()
    if name == "reinhard":
        return Reinhard()
    raise ConfigError(unknown_name("stain normaliser", name, ("macenko", "reinhard")))


@dataclass(frozen=True, eq=False, slots=True)
class Macenko:
    """Normalisation by stain separation: the slide's two stains are estimated and replaced by the target's.

    OD = -ln((I + 1) / Io), Io = 240. The pixels with OD >= .15 in every channel span, by their two largest principal
    directions, a plane; in it, the directions at the 1st and 99th percentile of the angle are the stains. The one that
    absorbs more red is haematoxylin. Concentrations C solve OD = V C by least squares; m are their 99th percentiles.
    With V', m' of the target, I' = Io exp(-V' diag(m' / m) C).

    Attributes:
        target_stains: V', (3, 2), unit columns, haematoxylin first.
        target_maxima: m', (2,).

    Source: Macenko et al., "A method for normalizing histology slides for quantitative analysis", ISBI 2009, section 2;
    Io, thresholds and target as in github.com/mitkovetta/staining-normalization, which torchstain also follows.
    """

    target_stains: Floats = field(
        default_factory=lambda: np.array([[0.5626, 0.2159], [0.7201, 0.8012], [0.4062, 0.5581]])
    )
    target_maxima: Floats = field(default_factory=lambda: np.array([1.9705, 1.0308]))

    @classmethod
    def towards(cls, reference: Pixels) -> Self:
        """Return a normaliser with the stains of a reference, (N, 3) uint8, as the target. Raises as ``fit`` does."""
        return cls(*_measure_stains(reference))

    def fit(self, pixels: Pixels) -> FittedMacenko:
        """Estimate the stains of a slide from a sample of its tissue, (N, 3) uint8.

        Raises:
            DataError: fewer than 100 pixels or 2 % are stained, all have one colour, or they do not show two stains.
        """
        stains, maxima = _measure_stains(pixels)
        matrix = self.target_stains * (self.target_maxima / maxima) @ np.linalg.pinv(stains)
        return FittedMacenko(stains, maxima, matrix)


@dataclass(frozen=True, eq=False, slots=True)
class FittedMacenko:
    """Normalisation of one slide by stain separation.

    Attributes:
        stains: V, (3, 2), the slide's stains, haematoxylin first.
        maxima: m, (2,), their maximum concentrations.
        matrix: V' diag(m' / m) V⁺, (3, 3).
    """

    stains: Floats
    maxima: Floats
    matrix: Floats

    def apply(self, image: Pixels) -> Pixels:
        """Return I' = Io exp(-matrix · OD), rounded, (H, W, 3) uint8 like ``image``."""
        _check(image, "(H, W, 3)")
        red, green, blue = (_DENSITY[image[..., channel]] for channel in range(3))
        result = np.empty(image.shape, dtype=np.uint8)
        for channel, row in enumerate(self.matrix.tolist()):
            density = row[0] * red + row[1] * green + row[2] * blue
            result[..., channel] = np.rint(np.clip(_LIGHT * np.exp(-density), 0, 255))
        return result


@dataclass(frozen=True, eq=False, slots=True)
class Reinhard:
    """Normalisation by statistics: each L*a*b* channel gets the mean and standard deviation of the target.

    x' = (x - mean) / deviation * deviation' + mean'. The paper uses the decorrelated space of Ruderman; CIE L*a*b* is
    used by later implementations (StainTools, torchstain). Glass is transformed like everything else, so it may get a
    tint.

    Attributes:
        target_mean: (3,) of L*, a*, b*; by default of the tissue of OpenSlide's CMU-1-Small-Region.svs (CC0), i.e. its
            pixels with a mean optical density (see ``Macenko``) of at least .15.
        target_deviation: (3,), the same for the standard deviation.

    Source: Reinhard et al., "Color transfer between images", IEEE CG&A 2001, equations 10 and 11.
    """

    target_mean: Floats = field(default_factory=lambda: np.array([46.084, 29.478, -12.831]))
    target_deviation: Floats = field(default_factory=lambda: np.array([18.077, 12.378, 9.808]))

    @classmethod
    def towards(cls, reference: Pixels) -> Self:
        """Return a normaliser with the statistics of a reference, (N, 3) uint8, as target. Raises as ``fit`` does."""
        return cls(*_measure_colours(reference))

    def fit(self, pixels: Pixels) -> FittedReinhard:
        """Measure the colours of a slide on a sample of its tissue, (N, 3) uint8.

        Raises:
            DataError: fewer than 100 pixels or 2 % are stained, or an L*a*b* channel is nearly constant.
        """
        mean, deviation = _measure_colours(pixels)
        scale = self.target_deviation / deviation
        return FittedReinhard(mean, deviation, scale, self.target_mean - scale * mean)


@dataclass(frozen=True, eq=False, slots=True)
class FittedReinhard:
    """Normalisation of one slide by statistics.

    Attributes:
        mean, deviation: (3,), statistics of the slide's L*a*b* values.
        scale, shift: (3,), transformation to the target's statistics.
    """

    mean: Floats
    deviation: Floats
    scale: Floats
    shift: Floats

    def apply(self, image: Pixels) -> Pixels:
        """Return the image with scaled and shifted L*a*b*, rounded, (H, W, 3) uint8 like ``image``."""
        _check(image, "(H, W, 3)")
        return np.rint(lab_to_rgb(rgb_to_lab(image) * self.scale + self.shift) * 255).astype(np.uint8)


def _measure_stains(pixels: Pixels) -> tuple[Floats, Floats]:
    """Return the stain vectors (3, 2), haematoxylin first, and the 99th percentiles of their concentrations, (2,)."""
    stained = _stained(pixels)
    mean = stained.mean(axis=0)
    variances, directions = np.linalg.eigh(np.cov(stained.T))
    plane = directions[:, 1:]
    plane = plane * np.where(mean @ plane < 0, -1.0, 1.0)  # LAPACK does not fix the signs
    middle, angles = _angle(mean @ plane), _angle(stained @ plane)
    about = (angles - middle + math.pi) % (2 * math.pi) - math.pi  # relative to the mean, so that no stain straddles ±π
    ends = np.percentile(about, _ANGLE_PERCENTILES)
    if variances[1] <= 1e-9 or np.degrees(ends[1] - ends[0]) < _MIN_ANGLE_DEGREES:
        raise DataError(
            "stain normalisation: the pixels show fewer than two stains; fit on tissue with haematoxylin and eosin, "
            "or take 'reinhard'"
        )
    stains = plane @ np.stack([np.cos(ends + middle), np.sin(ends + middle)])
    stains = stains[:, np.argsort(-stains[0], kind="stable")]
    maxima: Floats = np.percentile(_DENSITY[pixels] @ np.linalg.pinv(stains).T, _MAXIMUM_PERCENTILE, axis=0)
    if maxima.min() < _MIN_DENSITY:
        raise DataError("stain normalisation: hardly a pixel has one of the two stains; fit on pixels of tissue")
    return stains, maxima


def _measure_colours(pixels: Pixels) -> tuple[Floats, Floats]:
    """Return mean and standard deviation of L*, a*, b*, (3,) each."""
    _stained(pixels)
    lab = rgb_to_lab(pixels)
    mean, deviation = lab.mean(axis=0), lab.std(axis=0)
    if deviation.min() < _MIN_DEVIATION:
        channel = ("L*", "a*", "b*")[int(deviation.argmin())]
        raise DataError(f"stain normalisation: {channel} hardly varies over the pixels; fit on stained tissue")
    return mean, deviation


def _stained(pixels: Pixels) -> Floats:
    """Return the optical densities (M, 3) of the pixels that absorb in every channel."""
    _check(pixels, "(N, 3)")
    density = _DENSITY[pixels]
    stained: Floats = density[(density >= _MIN_DENSITY).all(axis=-1)]
    needed = max(_MIN_STAINED_PIXELS, math.ceil(_MIN_STAINED_SHARE * len(pixels)))
    if len(stained) < needed:
        raise DataError(
            f"stain normalisation: {len(stained)} of {len(pixels)} pixels are stained, the others nearly white; "
            f"it takes {needed}: fit on pixels of tissue"
        )
    if not np.ptp(stained, axis=0).any():
        raise DataError("stain normalisation: all stained pixels have one colour; fit on a larger sample of tissue")
    return stained


def _angle(points: Floats) -> Floats:
    return np.asarray(np.arctan2(points[..., 1], points[..., 0]))


def _check(pixels: Pixels, shape: Literal["(N, 3)", "(H, W, 3)"]) -> None:
    if pixels.dtype != np.uint8 or pixels.shape[-1:] != (3,) or pixels.ndim != shape.count(",") + 1:
        raise DataError(f"stain normalisation: takes RGB pixels, {shape} uint8, not {pixels.shape} {pixels.dtype}")
