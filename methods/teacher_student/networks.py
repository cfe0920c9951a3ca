"""Networks of the contrastive methods with a common interface: images or cached features in, maps out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, cast

import torch
from torch import Tensor, nn

from tissuebench.methods.api.stage import Task
from tissuebench.methods.networks.action_unet import ActionUNet, DecoderMaps
from tissuebench.methods.networks.segmenter import Segmenter
from tissuebench.methods.networks.settings import Architecture

Inputs = Tensor | tuple[Tensor, ...]


class MapsNetwork(Protocol):
    """Interface of a segmenter that exposes its feature maps.

    Attributes:
        deepest_channels: channels of ``DecoderMaps.deepest``.
        decoder_channels: total channels of all decoder maps.
        stride: image sides are rounded up to multiples of it.
    """

    deepest_channels: int
    decoder_channels: int
    stride: int

    def __call__(self, inputs: Inputs) -> Tensor:
        """Return logits (B, K, H, W)."""
        ...

    def maps(self, inputs: Inputs) -> DecoderMaps:
        """Return logits, and the maps that they are computed from."""
        ...

    def deepest(self, inputs: Inputs) -> Tensor:
        """Return only ``DecoderMaps.deepest``."""
        ...


class SharedNetwork(Segmenter):
    """Network that all methods share, with its maps exposed.

    Its deepest map is the encoder's; with a frozen encoder, which is not trained, it is the decoder's output.
    """

    def __init__(self, task: Task) -> None:
        super().__init__(task.network, len(task.class_map), task.tile_px)
        self.decoder_channels = cast("nn.Conv2d", self.head[0]).in_channels
        self.deepest_channels = self.decoder_channels if self.frozen else self.channels[-1]
        self.stride = self.multiple

    def maps(self, inputs: Inputs) -> DecoderMaps:
        """Return logits, the deepest map, and the single decoder map."""
        features = self.features_of(inputs)
        decoded = self.decoded(features)
        logits = self.cropped(self.classify(decoded, features), inputs)
        return DecoderMaps(logits, decoded if self.frozen else features[-1], (decoded,))

    def deepest(self, inputs: Inputs) -> Tensor:
        """Return only the deepest map."""
        features = self.features_of(inputs)
        return self.decoded(features) if self.frozen else features[-1]


class PaperNetwork(nn.Module):
    """U-Net of ACTION with random initial weights, for images in 0..1."""

    def __init__(self, task: Task) -> None:
        super().__init__()
        self.unet = ActionUNet(n_classes=len(task.class_map))
        channels = [cast("nn.Conv2d", module).out_channels for module in _last_convolutions(self.unet)]
        self.deepest_channels, self.decoder_channels = channels[0], sum(channels)
        self.stride = 16

    def forward(self, inputs: Inputs) -> Tensor:
        """Return logits of images (B, 3, H, W), uint8 or float in 0..1."""
        return self.maps(inputs).logits

    def maps(self, inputs: Inputs) -> DecoderMaps:
        """Return logits and all maps."""
        return cast("DecoderMaps", self.unet(_images(inputs)))

    def deepest(self, inputs: Inputs) -> Tensor:
        """Return only the deepest map."""
        return self.unet.deepest(_images(inputs))


def build_network(task: Task, architecture: Architecture) -> SharedNetwork | PaperNetwork:
    """Build the network of a task.

    Raises:
        ConfigError: the shared network cannot be built.
    """
    network = SharedNetwork(task) if architecture is Architecture.MATCHED else PaperNetwork(task)
    return network.to(memory_format=torch.channels_last)


def on_grid(labels: Tensor, size: Sequence[int], stride: int, value: float) -> Tensor:
    """Return pixel values (B, H, W) sampled at the centres of the cells of a coarser grid.

    Args:
        labels: values of images whose maps cover sides rounded up to multiples of ``stride``.
        size: h and w of the grid over the rounded sides.
        stride: stride of the network.
        value: value of cells whose centre is outside the image.

    Returns:
        (B, h, w) of the same dtype.
    """
    height, width = labels.shape[-2:]
    padded = nn.functional.pad(labels, (0, -width % stride, 0, -height % stride), value=value)
    rows, columns = (
        ((torch.arange(cells, device=labels.device) + 0.5) * (side / cells)).long()
        for side, cells in zip(padded.shape[-2:], size, strict=True)
    )
    return padded[..., rows[:, None], columns]


def _last_convolutions(unet: ActionUNet) -> list[nn.Module]:
    """Return the last convolution of each block whose output is in ``DecoderMaps.decoder``."""
    blocks = [list(unet.encoder.children())[-1], *list(unet.decoder.children())[:-1]]
    return [[module for module in block.modules() if isinstance(module, nn.Conv2d)][-1] for block in blocks]


def _images(inputs: Inputs) -> Tensor:
    if not isinstance(inputs, Tensor):
        raise TypeError("the paper's network needs images, not features of another encoder")
    images = inputs.float() / 255 if inputs.dtype == torch.uint8 else inputs
    return images.contiguous(memory_format=torch.channels_last)
