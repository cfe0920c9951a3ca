"""Training augmentation that is safe for H&E, on the device: right angles, flips, zoom, stain, blur and mild colour."""

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
"""What kornia draws once a batch; everything else that it draws has one entry a sample."""

_SHARPEST = 1e-3
"""Pixels of sigma at which a Gaussian is a single one; kornia refuses 0."""


class AugmentSettings(Settings):
    """Strength of the augmentation; 0 switches a kind off. Part of a trial's identity.

    Attributes:
        color: brightness, contrast and saturation change by up to this share.
        hue: in turns of the hue circle.
        scale: zoom between 1 / (1 + scale) and 1 + scale, uniform in its logarithm.
        blur: largest sigma of a Gaussian blur, in pixels.
        stain: haematoxylin, eosin and DAB each times U(1 - stain, 1 + stain) plus U(-stain, stain), see
            ``jitter_stains``. Published strengths are .05 and .2.
    """

    color: float = Field(0.2, ge=0, le=0.9)
    hue: float = Field(0.03, ge=0, le=0.5)
    scale: float = Field(0, ge=0, le=1)
    blur: float = Field(0, ge=0, le=8)
    stain: float = Field(0, ge=0, le=0.9)


@dataclass(frozen=True, eq=False, slots=True)
class Geometry:
    """How the samples of a batch were moved.

    Attributes:
        orientations: (B,) int64, see ``orient``.
        zooms: (B,) float32, applied after the orientation about the centre; above 1 things look larger.
    """

    orientations: Tensor
    zooms: Tensor

    def apply_to_labels(self, masks: Tensor) -> Tensor:
        """The same for masks, (B, S, S) or (B, L, S, S) integers.

        By the nearest pixel, so no label comes out that did not go in.
        """
        turned = orient_each(masks, self.orientations)
        if bool((self.zooms == 1).all()):
            return turned
        layers = turned.reshape(len(masks), -1, *masks.shape[-2:])
        return _zoom(layers.float(), self.zooms, "nearest").reshape(masks.shape).to(masks.dtype)  # exact up to 2**24


def orient(tensor: Tensor, orientation: int) -> Tensor:
    """One of the eight symmetries of the square, on the last two axes: ``orientation`` = quarter turns + 4 * flip."""
    turned = torch.rot90(tensor, orientation % 4, dims=(-2, -1))
    return turned.flip(-1) if orientation >= 4 else turned


def orient_arrays(batch: NDArray[np.uint8], orientations: Sequence[int]) -> NDArray[np.uint8]:
    """``orient_each`` without torch, for threads that feed it."""
    turned = (np.rot90(each, which % 4, axes=(-2, -1)) for each, which in zip(batch, orientations, strict=True))
    return np.stack([each[..., ::-1] if which >= 4 else each for each, which in zip(turned, orientations, strict=True)])


def orient_each(batch: Tensor, orientations: Tensor) -> Tensor:
    """``orient`` a (B, ..., S, S) batch, each sample its own way."""
    result = torch.empty_like(batch)
    for orientation in range(N_ORIENTATIONS):
        chosen = (orientations == orientation).to(batch.device)
        if chosen.any():
            result[chosen] = orient(batch[chosen], orientation)
    return result


def augment(
    images: Tensor, seed: int, settings: AugmentSettings, offset: int = 0, total: int | None = None
) -> tuple[Tensor, Geometry]:
    """Augment a batch, or one process's slice of it: what happens to a sample depends on the seed and its index alone.

    All random numbers are drawn for the whole batch, on the CPU, and those of the slice are used: processes that share
    a batch do together what one process does with all of it.

    Args:
        images: (B, 3, S, S) uint8.
        seed: of the whole batch.
        settings: strength.
        offset: index of the first image in the whole batch.
        total: samples of the whole batch; by default the images are all of it.

    Returns:
        (B, 3, S, S) float32 in 0..1, and how the samples were moved.

    Raises:
        ValueError: the slice is not inside the whole batch.
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
        zooms = ((1 + settings.scale) ** exponents)[mine]  # a power's last bit may depend on how many are computed
        result = _zoom(result, zooms, "bilinear")
    return recolour(result, seed, settings, offset, total), Geometry(orientations, zooms)


def recolour(images: Tensor, seed: int, settings: AugmentSettings, offset: int = 0, total: int | None = None) -> Tensor:
    """What ``augment`` does to colours and sharpness, and nothing that moves a pixel.

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
    """Numbers in -1..1, (n_samples, n_values); each kind of augmentation has its own, so none moves another's."""
    generator = torch.Generator().manual_seed(derive_seed(seed, name))
    return torch.rand((n_samples, n_values), generator=generator) * 2 - 1


def _zoom(batch: Tensor, zooms: Tensor, mode: str) -> Tensor:
    """(B, C, S, S) about the centre, mirrored beyond the border."""
    size = batch.shape[-1]
    centres = (torch.arange(size, device=batch.device) * 2 + 1) / size - 1
    places = centres / zooms.to(batch.device)[:, None]
    x = places[:, None, :].expand(-1, size, -1)
    grid = torch.stack([x, x.transpose(1, 2)], dim=-1)
    return functional.grid_sample(batch, grid, mode=mode, padding_mode="reflection", align_corners=False)


def _blur(images: Tensor, sigmas: Tensor, largest: float) -> Tensor:
    """Gaussian, (B, 1) sigmas. The window depends on the settings alone; mirroring needs it narrower than two tiles."""
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
