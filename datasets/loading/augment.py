"""Training augmentation suitable for H&E, on the device: right angles, flips, zoom, stain, blur and mild colour."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from tissuebench.common.hashing import derive_seed
from tissuebench.common.settings import Settings
from tissuebench.datasets.color.stain import jitter_stains

N_ORIENTATIONS = 8
_OF_THE_BATCH = ("order", "forward_input_shape")
"""Parameters that kornia draws once per batch; all its other parameters have one entry per sample."""

_SHARPEST = 1e-3
"""Sigma in pixels at which a Gaussian is a single pixel; kornia refuses 0."""


class AugmentSettings(Settings):
    """Strength of each kind of augmentation; 0 disables it. Part of a trial's identity.

    Attributes:
        color: maximum relative change of brightness, contrast and saturation.
        hue: maximum change of hue, in turns of the hue circle.
        scale: zoom between 1 / (1 + scale) and 1 + scale, uniform in its logarithm.
        blur: largest sigma of a Gaussian blur, in pixels.
        stain: haematoxylin, eosin and DAB are each multiplied by U(1 - stain, 1 + stain) and shifted by
            U(-stain, stain), see ``jitter_stains``. Published strengths are .05 and .2.
    """

    color: float = Field(0.2, ge=0, le=0.9)
    hue: float = Field(0.03, ge=0, le=0.5)
    scale: float = Field(0, ge=0, le=1)
    blur: float = Field(0, ge=0, le=8)
    stain: float = Field(0, ge=0, le=0.9)


@dataclass(frozen=True, eq=False, slots=True)
class Geometry:
    """Geometric transformation of each sample of a batch.

    Attributes:
        orientations: (B,) int64, see ``orient``.
        zooms: (B,) float32, applied about the centre after the orientation; values above 1 magnify.
    """

    orientations: Tensor
    zooms: Tensor

    def apply_to_labels(self, masks: Tensor) -> Tensor:
        """Return masks, (B, S, S) or (B, L, S, S) integers, with the same transformation.

        Interpolates by nearest neighbour, so no new label values appear.
        """
        turned = orient_each(masks, self.orientations)
        if bool((self.zooms == 1).all()):
            return turned
        layers = turned.reshape(len(masks), -1, *masks.shape[-2:])
        return _zoom(layers.float(), self.zooms, "nearest").reshape(masks.shape).to(masks.dtype)  # exact up to 2**24


def orient(tensor: Tensor, orientation: int) -> Tensor:
    """Apply one of the square's eight symmetries to the last two axes: ``orientation`` = quarter turns + 4 * flip."""
    turned = torch.rot90(tensor, orientation % 4, dims=(-2, -1))
    return turned.flip(-1) if orientation >= 4 else turned


def orient_arrays(batch: NDArray[np.uint8], orientations: Sequence[int]) -> NDArray[np.uint8]:
    """Apply ``orient_each`` to numpy arrays, for threads that feed torch without using it."""
    turned = (np.rot90(each, which % 4, axes=(-2, -1)) for each, which in zip(batch, orientations, strict=True))
    return np.stack([each[..., ::-1] if which >= 4 else each for each, which in zip(turned, orientations, strict=True)])


def orient_each(batch: Tensor, orientations: Tensor) -> Tensor:
    """Apply ``orient`` to a (B, ..., S, S) batch, with its own orientation for each sample."""
    result = torch.empty_like(batch)
    for orientation in range(N_ORIENTATIONS):
        chosen = (orientations == orientation).to(batch.device)
        if chosen.any():
            result[chosen] = orient(batch[chosen], orientation)
    return result


def augment(
    images: Tensor, seed: int, settings: AugmentSettings, offset: int = 0, total: int | None = None
) -> tuple[Tensor, Geometry]:
    """Augment a batch, or one process's slice of it; the effect on a sample depends only on the seed and its index.

    All random numbers are drawn for the whole batch, on the CPU, and those of the slice are used: processes that share
    a batch together do the same as one process with all of it.

    Args:
        images: (B, 3, S, S) uint8.
        seed: seed of the whole batch.
        settings: strength.
        offset: index of the first image in the whole batch.
        total: number of samples in the whole batch; by default the images are the whole batch.

    Returns:
        (B, 3, S, S) float32 in 0..1, and the geometric transformation of the samples.

    Raises:
        ValueError: the slice is not inside the whole batch.

    Examples:
        >>> images = torch.zeros(2, 3, 64, 64, dtype=torch.uint8)
        >>> augmented, geometry = augment(images, seed=0, settings=AugmentSettings())
        >>> augmented.shape, augmented.dtype
        (torch.Size([2, 3, 64, 64]), torch.float32)
    """
    total = len(images) if total is None else total
    if not 0 <= offset <= total - len(images):
        raise ValueError(f"{len(images)} images from {offset} on are not in a batch of {total}")
    mine = slice(offset, offset + len(images))
    generator = torch.Generator().manual_seed(seed)
    orientations = torch.randint(N_ORIENTATIONS, (total,), generator=generator)[mine]
    result = orient_each(images, orientations).float().div_(255)
    zooms = torch.ones(len(images))
    if settings.scale:
        exponents = _uniform(seed, "scale", total, 1)[:, 0]
        zooms = ((1 + settings.scale) ** exponents)[mine]  # the last bit of a power may depend on the batch size
        result = _zoom(result, zooms, "bilinear")
    return recolour(result, seed, settings, offset, total), Geometry(orientations, zooms)


def recolour(images: Tensor, seed: int, settings: AugmentSettings, offset: int = 0, total: int | None = None) -> Tensor:
    """Apply the colour and sharpness part of ``augment``, without its geometry.

    ``images`` are (B, 3, S, S) float32 in 0..1, as is the result; the other arguments are those of ``augment``.
    """
    total = len(images) if total is None else total
    mine = slice(offset, offset + len(images))
    if settings.stain:
        strengths = settings.stain * _uniform(seed, "stain", total, 6)[mine]
        images = jitter_stains(images, 1 + strengths[:, :3], strengths[:, 3:])
    if settings.blur:
        sigmas = settings.blur * _uniform(seed, "blur", total, 1)[mine].abs()
        images = _blur(images, sigmas, settings.blur)
    if settings.color or settings.hue:
        images = _jiggle(images, seed, settings, mine, total).clamp_(0, 1)
    return images


def _uniform(seed: int, name: str, n_samples: int, n_values: int) -> Tensor:
    """Return numbers in -1..1, (n_samples, n_values); each kind of augmentation has its own independent sequence."""
    generator = torch.Generator().manual_seed(derive_seed(seed, name))
    return torch.rand((n_samples, n_values), generator=generator) * 2 - 1


def _zoom(batch: Tensor, zooms: Tensor, mode: str) -> Tensor:
    """Zoom a batch (B, C, S, S) about its centre, mirrored beyond the border."""
    size = batch.shape[-1]
    centres = (torch.arange(size, device=batch.device) * 2 + 1) / size - 1
    places = centres / zooms.to(batch.device)[:, None]
    x = places[:, None, :].expand(-1, size, -1)
    grid = torch.stack([x, x.transpose(1, 2)], dim=-1)
    return functional.grid_sample(batch, grid, mode=mode, padding_mode="reflection", align_corners=False)


def _blur(images: Tensor, sigmas: Tensor, largest: float) -> Tensor:
    """Blur with a Gaussian per sample, sigmas (B, 1); its window depends only on the settings and the tile size."""
    from kornia.filters import gaussian_blur2d

    radius = min(math.ceil(3 * largest), images.shape[-1] - 1)
    both_axes = sigmas.clamp(min=_SHARPEST).expand(-1, 2).to(images.device)
    blurred: Tensor = gaussian_blur2d(images, 2 * radius + 1, both_axes)
    return blurred


def _jiggle(images: Tensor, seed: int, settings: AugmentSettings, mine: slice, total: int) -> Tensor:
    module = _colour(settings.color, settings.hue)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # kornia draws from the global generator of the CPU
        drawn = module.forward_parameters(torch.Size((total, *images.shape[1:])))
    own = {name: values if name in _OF_THE_BATCH else values[mine] for name, values in drawn.items()}
    jiggled: Tensor = module(images, params=own | {"forward_input_shape": torch.tensor(images.shape)})
    return jiggled


@lru_cache(maxsize=8)
def _colour(strength: float, hue: float) -> Any:  # noqa: ANN401 - kornia has no types here
    from kornia.augmentation import ColorJiggle

    return ColorJiggle(strength, strength, strength, hue, same_on_batch=False, p=1.0)
