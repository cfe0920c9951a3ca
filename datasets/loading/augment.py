"""Training augmentation on the device: right angles, flips, zoom, crops, stain, blur and colour."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from tissuebench.common.hashing import derive_seed
from tissuebench.datasets.color.stain import jitter_stains
from tissuebench.datasets.loading.augment_settings import AugmentSettings, BlurSigma, ColorJitter

_OF_THE_BATCH = ("order", "forward_input_shape")
"""Parameters that kornia draws once per batch; all its other parameters have one entry per sample."""

_SHARPEST = 1e-3
"""Sigma in pixels at which a Gaussian is a single pixel; kornia refuses 0."""


@dataclass(frozen=True, eq=False, slots=True)
class Geometry:
    """Geometric transformation of each sample of a batch.

    Attributes:
        orientations: (B,) int64, see ``orient``.
        zooms: (B,) float32, applied about the centre after the orientation; values above 1 magnify.
        corners: (B, 2) int64, y and x of the upper left pixel of the crops, which are taken last; None: no crops.
        crop_px: edge of the crops.
    """

    orientations: Tensor
    zooms: Tensor
    corners: Tensor | None = None
    crop_px: int = 0

    def apply_to_labels(self, masks: Tensor) -> Tensor:
        """Return masks, (B, S, S) or (B, L, S, S) integers, with the same transformation.

        Interpolates by nearest neighbour, so no new label values appear.
        """
        moved = orient_each(masks, self.orientations)
        if not bool((self.zooms == 1).all()):
            layers = moved.reshape(len(masks), -1, *masks.shape[-2:])
            zoomed = _zoom(layers.float(), self.zooms, "nearest")
            moved = zoomed.reshape(masks.shape).to(masks.dtype)  # exact up to 2**24
        return self.cropped(moved)

    def cropped(self, batch: Tensor) -> Tensor:
        """Return the crops of a (B, ..., S, S) batch; the batch itself if there are none."""
        if self.corners is None:
            return batch
        edge, corners = self.crop_px, self.corners.tolist()
        return torch.stack([each[..., y : y + edge, x : x + edge] for each, (y, x) in zip(batch, corners, strict=True)])


def orient(tensor: Tensor, orientation: int) -> Tensor:
    """Apply one of the square's eight symmetries to the last two axes: ``orientation`` = quarter turns + 4 * flip."""
    turned = torch.rot90(tensor, orientation % 4, dims=(-2, -1))
    return turned.flip(-1) if orientation >= 4 else turned


def orient_arrays(batch: NDArray[np.uint8], orientations: Sequence[int]) -> NDArray[np.uint8]:
    """Apply ``orient_each`` to numpy arrays, for threads that feed torch without using it."""
    turned = (np.rot90(each, which % 4, axes=(-2, -1)) for each, which in zip(batch, orientations, strict=True))
    return np.stack([each[..., ::-1] if which >= 4 else each for each, which in zip(turned, orientations, strict=True)])


def orient_each(batch: Tensor, orientations: Tensor) -> Tensor:
    """Apply ``orient`` to a (B, ..., S, S) batch, with its own orientation for each sample, (B,) on the CPU."""
    if batch.device.type == "cpu":
        result = torch.empty_like(batch)
        for own, sample, orientation in zip(result, batch, orientations.tolist(), strict=True):
            own.copy_(orient(sample, orientation))
        return result
    for change, is_changed in zip(_CHANGES, _CHANGED[:, orientations], strict=True):
        chosen = is_changed.view(-1, *[1] * (batch.ndim - 1)).to(batch.device, non_blocking=True)
        batch = torch.where(chosen, change(batch), batch)
    return batch


_CHANGES: tuple[Callable[[Tensor], Tensor], ...] = (
    lambda batch: batch.transpose(-2, -1),
    lambda batch: batch.flip(-2),
    lambda batch: batch.flip(-1),
)
_CHANGED = torch.tensor([[0, 1, 0, 1, 0, 1, 0, 1], [0, 1, 1, 0, 0, 1, 1, 0], [0, 0, 1, 1, 1, 1, 0, 0]]) > 0
"""Which of ``_CHANGES`` make up each orientation, (3, 8): a few operations of a whole batch, whatever is in it."""


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
        (B, 3, S, S) float32 in 0..1, S the edge of the crops if there are any, and the geometric transformation of the
        samples.

    Raises:
        ValueError: the slice is not inside the whole batch.
        ConfigError: a crop is larger than the images.

    Examples:
        >>> images = torch.zeros(2, 3, 64, 64, dtype=torch.uint8)
        >>> augmented, geometry = augment(images, seed=0, settings=AugmentSettings())
        >>> augmented.shape, augmented.dtype
        (torch.Size([2, 3, 64, 64]), torch.float32)
    """
    total = len(images) if total is None else total
    if not 0 <= offset <= total - len(images):
        raise ValueError(f"{len(images)} images from {offset} on are not in a batch of {total}")
    settings.check_crop(images.shape[-1])
    mine = slice(offset, offset + len(images))
    members = torch.tensor(settings.orientations.members)
    generator = torch.Generator().manual_seed(seed)
    orientations = members[torch.randint(len(members), (total,), generator=generator)[mine]]
    result = orient_each(images, orientations).float().div_(255)
    zooms, corners = torch.ones(len(images)), None
    if settings.scale:
        exponents = _uniform(seed, "scale", total, 1)[:, 0]
        zooms = ((1 + settings.scale) ** exponents)[mine]  # the last bit of a power may depend on the batch size
        result = _zoom(result, zooms, "bilinear")
    if settings.crop_px is not None:
        generator = torch.Generator().manual_seed(derive_seed(seed, "crop"))
        corners = torch.randint(images.shape[-1] - settings.crop_px + 1, (total, 2), generator=generator)[mine]
    geometry = Geometry(orientations, zooms, corners, settings.crop_px or 0)
    return recolour(geometry.cropped(result), seed, settings, offset, total), geometry


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
        blurred = _blur(images, _sigmas(seed, settings, total)[mine], settings)
        images = _for_some(images, blurred, _chosen(seed, "blur", total, settings.blur_probability)[mine])
    if any(settings.color_strengths):
        jittered = _jittered(images, seed, settings, mine, total).clamp_(0, 1)
        images = _for_some(images, jittered, _chosen(seed, "color", total, settings.color_probability)[mine])
    return images


def _chosen(seed: int, name: str, n_samples: int, probability: float) -> Tensor:
    """Return which samples get a kind of augmentation, (n_samples,) bool."""
    generator = torch.Generator().manual_seed(derive_seed(seed, name, "chosen"))
    return torch.rand(n_samples, generator=generator) < probability


def _for_some(images: Tensor, changed: Tensor, chosen: Tensor) -> Tensor:
    return (
        changed
        if bool(chosen.all())
        else torch.where(chosen.to(images.device, non_blocking=True)[:, None, None, None], changed, images)
    )


def _uniform(seed: int, name: str, n_samples: int, n_values: int) -> Tensor:
    """Return numbers in -1..1, (n_samples, n_values); each kind of augmentation has its own independent sequence."""
    generator = torch.Generator().manual_seed(derive_seed(seed, name))
    return torch.rand((n_samples, n_values), generator=generator) * 2 - 1


def _zoom(batch: Tensor, zooms: Tensor, mode: str) -> Tensor:
    """Zoom a batch (B, C, S, S) about its centre, mirrored beyond the border."""
    size = batch.shape[-1]
    centres = (torch.arange(size, device=batch.device) * 2 + 1) / size - 1
    places = centres / zooms.to(batch.device, non_blocking=True)[:, None]
    x = places[:, None, :].expand(-1, size, -1)
    grid = torch.stack([x, x.transpose(1, 2)], dim=-1)
    return functional.grid_sample(batch, grid, mode=mode, padding_mode="reflection", align_corners=False)


def _sigmas(seed: int, settings: AugmentSettings, n_samples: int) -> Tensor:
    """Return the sigmas of the samples' blur along the columns and the rows, (n_samples, 2)."""
    if settings.blur_sigma is BlurSigma.PER_AXIS:
        return torch.tensor([[settings.blur, settings.blur_from]]).expand(n_samples, -1)
    drawn = _uniform(seed, "blur", n_samples, 1).abs()
    return (settings.blur_from + (settings.blur - settings.blur_from) * drawn).expand(-1, 2)


def _blur(images: Tensor, sigmas: Tensor, settings: AugmentSettings) -> Tensor:
    """Blur with a Gaussian per sample, sigmas (B, 2); its window depends only on the settings and the tile size."""
    from kornia.filters import gaussian_blur2d

    radius = math.ceil(3 * settings.blur) if settings.blur_kernel is None else settings.blur_kernel // 2
    radius = min(radius, images.shape[-1] - 1)
    blurred: Tensor = gaussian_blur2d(images, 2 * radius + 1, sigmas.clamp(min=_SHARPEST))  # kornia moves them
    return blurred


def _jittered(images: Tensor, seed: int, settings: AugmentSettings, mine: slice, total: int) -> Tensor:
    module = _color(settings.jitter, settings.color_strengths)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # kornia draws from the global generator of the CPU
        drawn = module.forward_parameters(torch.Size((total, *images.shape[1:])))
    own = {name: values if name in _OF_THE_BATCH else values[mine] for name, values in drawn.items()}
    jittered: Tensor = module(images, params=own | {"forward_input_shape": torch.tensor(images.shape)})
    return jittered


@lru_cache(maxsize=8)
def _color(jitter: ColorJitter, strengths: tuple[float, float, float, float]) -> Any:  # noqa: ANN401 - kornia has no types
    from kornia import augmentation

    kind = augmentation.ColorJiggle if jitter is ColorJitter.ADDITIVE else augmentation.ColorJitter
    return kind(*strengths, same_on_batch=False, p=1.0)
