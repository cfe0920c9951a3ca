"""Shared network conditioned on the time of a diffusion: as a segmenter, and as a noise predictor."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from tissuebench.methods.networks.diffusion_unet import sinusoidal_embedding
from tissuebench.methods.networks.segmenter import Segmenter
from tissuebench.methods.networks.settings import NetworkSettings

_SHARED, _HEAD = "shared.", "head."
_EMBEDDING, _TIME_FEATURES, _NOISE_CHANNELS = 64, 128, 32


class TimedSegmenter(Segmenter):
    """Shared network with a time embedding added to the encoder's feature maps.

    The decoder reads ``f_l + W_l SiLU(V embedding(t))`` for each feature map f_l. W starts at 0, so without
    pre-training the network equals the shared one. As a segmenter it has the same interface, with one fixed time for
    all images.

    Args:
        settings: network settings.
        n_classes: K.
        tile_px: as for ``Segmenter``.
        step: time step at which it segments.
    """

    def __init__(
        self, settings: NetworkSettings, n_classes: int, tile_px: int | None = None, step: float = 0.0
    ) -> None:
        super().__init__(settings, n_classes, tile_px)
        self.step = step
        self.time = nn.Sequential(nn.Linear(_EMBEDDING, _TIME_FEATURES), nn.SiLU())
        self.shifts = nn.ModuleList(nn.Linear(_TIME_FEATURES, width) for width in self.channels)
        for shift in self.shifts:
            nn.init.zeros_(cast("nn.Linear", shift).weight)
            nn.init.zeros_(cast("nn.Linear", shift).bias)

    def told(self, features: Sequence[Tensor], t: Tensor) -> list[Tensor]:
        """Return the maps of ``encode`` shifted by each image's time; t is (B,), or (1,) for all images."""
        time = self.time(sinusoidal_embedding(t, _EMBEDDING))
        return [f + shift(time)[:, :, None, None] for f, shift in zip(features, self.shifts, strict=True)]

    def take_over(self, denoiser: Mapping[str, Tensor]) -> None:
        """Load all weights except the head's from the state of a ``TimedDenoiser``.

        Raises:
            ValueError: the state belongs to a different network; nothing is copied.
        """
        given = {name.removeprefix(_SHARED): value for name, value in denoiser.items() if name.startswith(_SHARED)}
        wanted = {name: value.shape for name, value in self.state_dict().items() if not name.startswith(_HEAD)}
        if {name: value.shape for name, value in given.items()} != wanted:
            raise ValueError("the pre-trained weights are those of another network")
        self.load_state_dict(given, strict=False)

    def decode(self, features: Sequence[Tensor]) -> Tensor:
        """Return logits at the fixed time of segmentation."""
        return super().decode(self.told(features, torch.full((1,), self.step, device=features[0].device)))


class TimedDenoiser(nn.Module):
    """Noise predictor: a ``TimedSegmenter`` without its head, and a small head that also reads the noisy image.

    The decoder output is coarser than the image and encodes the tissue type; the head combines it with the noisy image
    at full resolution.

    Args:
        settings: network settings.
        n_classes: K of the segmenter whose initial weights it shares.
    """

    def __init__(self, settings: NetworkSettings, n_classes: int) -> None:
        super().__init__()
        self.shared = TimedSegmenter(settings, n_classes)
        width = cast("nn.Conv2d", self.shared.head[0]).in_channels
        self.shared.head = nn.Sequential()
        self.noise = nn.Sequential(
            nn.Conv2d(width + 3, _NOISE_CHANNELS, 3, padding=1), nn.SiLU(), nn.Conv2d(_NOISE_CHANNELS, 3, 3, padding=1)
        )

    def forward(self, noisy: Tensor, t: Tensor) -> Tensor:
        """Return the predicted noise (B, 3, H, W) of noisy images (B, 3, H, W) in -1..1 at steps t (B,)."""
        height, width = noisy.shape[-2:]
        decoded = self.maps(noisy, t)
        padded = tuple(side + -side % self.shared.multiple for side in (height, width))
        decoded = functional.interpolate(decoded, size=padded, mode="bilinear", align_corners=False)
        return cast("Tensor", self.noise(torch.cat([decoded[..., :height, :width], noisy], dim=1)))

    def maps(self, images: Tensor, t: Tensor) -> Tensor:
        """Return the decoder output (B, C, h, w) for images in -1..1."""
        features = self.shared.encode((images + 1) / 2)
        return self.shared.decoded(self.shared.told(features, t))
