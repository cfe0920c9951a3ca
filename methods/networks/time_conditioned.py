"""The network that all arms share, told the time of a diffusion: as a segmenter, and as a predictor of noise."""

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
    """``f_l + W_l SiLU(V embedding(t))`` for each feature map f_l of the encoder, before the decoder reads it.

    W starts at 0, so that without pre-training the network is the shared one. As a segmenter it is called like that,
    and the time is the same for all images.

    Args:
        settings: of the network.
        n_classes: K.
        tile_px: as ``Segmenter``.
        step: the time at which it segments.
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
        """The maps of ``encode`` with the time of each image added; t is (B,), or (1,) for all."""
        time = self.time(sinusoidal_embedding(t, _EMBEDDING))
        return [f + shift(time)[:, :, None, None] for f, shift in zip(features, self.shifts, strict=True)]

    def take_over(self, denoiser: Mapping[str, Tensor]) -> None:
        """All but the head from the state of a ``TimedDenoiser``.

        Raises:
            ValueError: it is that of another network; nothing is copied.
        """
        given = {name.removeprefix(_SHARED): value for name, value in denoiser.items() if name.startswith(_SHARED)}
        wanted = {name: value.shape for name, value in self.state_dict().items() if not name.startswith(_HEAD)}
        if {name: value.shape for name, value in given.items()} != wanted:
            raise ValueError("the pre-trained weights are those of another network")
        self.load_state_dict(given, strict=False)

    def decode(self, features: Sequence[Tensor]) -> Tensor:
        """Logits at the time of segmentation."""
        return super().decode(self.told(features, torch.full((1,), self.step, device=features[0].device)))


class TimedDenoiser(nn.Module):
    """Predicts the noise in images: a ``TimedSegmenter`` without its head, and a small head that sees the image, too.

    What the decoder gives is coarser than pixels; it says what tissue is there, and the head compares that with the
    noisy image at full resolution.

    Args:
        settings: of the network.
    """

    def __init__(self, settings: NetworkSettings) -> None:
        super().__init__()
        self.shared = TimedSegmenter(settings, 2)
        width = cast("nn.Conv2d", cast("nn.Sequential", self.shared.head)[0]).in_channels
        self.shared.head = nn.Identity()
        self.noise = nn.Sequential(
            nn.Conv2d(width + 3, _NOISE_CHANNELS, 3, padding=1), nn.SiLU(), nn.Conv2d(_NOISE_CHANNELS, 3, 3, padding=1)
        )

    def forward(self, noisy: Tensor, t: Tensor) -> Tensor:
        """Noise (B, 3, H, W) of images (B, 3, H, W) in -1..1 with noise, at the steps t (B,)."""
        height, width = noisy.shape[-2:]
        decoded = self.maps(noisy, t)
        padded = tuple(side + -side % 32 for side in (height, width))
        decoded = functional.interpolate(decoded, size=padded, mode="bilinear", align_corners=False)
        return cast("Tensor", self.noise(torch.cat([decoded[..., :height, :width], noisy], dim=1)))

    def maps(self, images: Tensor, t: Tensor) -> Tensor:
        """What the decoder makes of images in -1..1: (B, C, h, w)."""
        features = self.shared.encode((images + 1) / 2)
        return self.shared.decoded(self.shared.told(features, t))
