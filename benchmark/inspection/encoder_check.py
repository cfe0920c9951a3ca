"""Check of an encoder without a run: loads it with its weights, encodes a tile, and reports what a plan would get."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import torch

from tissuebench.errors import ConfigError
from tissuebench.methods.networks import build_encoder
from tissuebench.methods.networks.backbones import described
from tissuebench.methods.networks.encoder_catalogue import CATALOGUE
from tissuebench.methods.networks.encoder_spec import spec_of
from tissuebench.methods.networks.encoder_weights import fitted, read_tensors, weights_file, weights_sha256
from tissuebench.methods.networks.settings import HUB, Decoder, NetworkSettings, Weights


@dataclass(frozen=True, slots=True)
class EncoderReport:
    """Report on an encoder.

    Attributes:
        encoder: value of ``network.encoder``.
        also: other names of the catalogue whose shapes the weights fit as well.
        architecture: timm name.
        weights: where they come from.
        sha256: their hash, as in the identity of trials; None for random ones.
        channels, strides: of the maps that a decoder reads.
        multiple: sides of tiles are padded to multiples of it.
        parameters: number of values.
        feature_bytes: of the cached features of a tile, as float16, one variant.
        mean, std: statistics of the input, in 0..1.
        interpolation: with which its training images were resized.
        mpps: resolutions that it was trained at, in micrometres per pixel; empty if not known.
        licence: of the weights; None if not known.
        tile_px: edge of the tile that was encoded.
        seconds: to encode one on this machine, without what is done once.
    """

    encoder: str
    also: tuple[str, ...]
    architecture: str
    weights: str
    sha256: str | None
    channels: tuple[int, ...]
    strides: tuple[int, ...]
    multiple: int
    parameters: int
    feature_bytes: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    interpolation: str
    mpps: tuple[float, ...]
    licence: str | None
    tile_px: int
    seconds: float

    def lines(self) -> list[str]:
        """Return the report as lines."""
        maps = ", ".join(f"{c} channels at stride {s}" for c, s in zip(self.channels, self.strides, strict=True))
        if len(set(self.strides)) == 1 < len(self.strides):
            maps = f"tokens of {len(self.strides)} depths, {self.channels[-1]} channels at stride {self.strides[-1]}"
        statistics = " ".join(f"{value:.3f}" for value in (*self.mean, *self.std))
        at = ", ".join(f"{mpp:g}" for mpp in self.mpps)
        found = [
            ("encoder", self.encoder + (f" (fits {', '.join(self.also)} as well)" if self.also else "")),
            ("architecture", f"{self.architecture} of timm, {self.parameters / 1e6:.1f} M parameters"),
            ("weights", self.weights + (f", sha256 {self.sha256}" if self.sha256 else "")),
            ("maps", maps),
            ("features", f"{self.feature_bytes / 1e6:.3g} MB for a tile of {self.tile_px} px and variant, as float16"),
            ("tiles", f"padded to multiples of {self.multiple} px, not resized; mean and std {statistics}"),
            ("trained at", f"{at} µm per pixel" if at else "photographs, or not published"),
            ("licence", self.licence or "not known here"),
            ("speed", f"{self.seconds:.3g} s a tile on this machine, one at a time"),
        ]
        return [f"{name:13} {value}" for name, value in found]


def check_encoder(name_or_path: str, encoder: str | None, weights: str | None, tile_px: int) -> EncoderReport:
    """Load an encoder and encode a tile.

    Args:
        name_or_path: value of ``network.encoder``, or of ``network.weights`` if it is a file or a folder.
        encoder: value of ``network.encoder`` that a file belongs to; None looks for one in the catalogue.
        weights: value of ``network.weights`` for a name; None is the published ones.
        tile_px: edge of the tile.

    Raises:
        ConfigError: it cannot be loaded, or the file fits none of the catalogue.
    """
    also: tuple[str, ...] = ()
    if Path(name_or_path).expanduser().exists():
        if weights is not None:
            raise ConfigError(f"{name_or_path} is a file or folder of weights: leave out --weights")
        weights = name_or_path
        if encoder is None:
            encoder, *more = _fitting(NetworkSettings(weights=weights))
            also = tuple(more)
    else:
        is_path = not name_or_path.startswith(HUB) and ("/" in name_or_path or "\\" in name_or_path)
        if encoder is not None or is_path:
            raise ConfigError(f"no such file or folder: {name_or_path}")
        encoder, weights = name_or_path, weights or Weights.TIMM.value
    settings = NetworkSettings(encoder=encoder, weights=weights, decoder=Decoder.FPN)
    network, spec = build_encoder(settings).eval(), spec_of(settings)
    tile = torch.zeros((1, 3, tile_px, tile_px), dtype=torch.uint8)
    with torch.inference_mode():
        try:
            maps = network.encode(tile)
        except (RuntimeError, AssertionError, ValueError) as error:
            raise ConfigError(f"{encoder}: cannot encode a tile of {tile_px} px ({error})") from None
        started = time.perf_counter()
        network.encode(tile)
        seconds = time.perf_counter() - started
    return EncoderReport(
        encoder=encoder,
        also=also,
        architecture=spec.architecture,
        weights=str(settings.weights),
        sha256=weights_sha256(settings),
        channels=network.channels,
        strides=network.strides,
        multiple=network.multiple,
        parameters=sum(each.numel() for each in network.parameters()),
        feature_bytes=2 * sum(each.numel() for each in maps),
        mean=spec.mean,
        std=spec.std,
        interpolation=spec.interpolation,
        mpps=spec.entry.mpps if spec.entry else (),
        licence=spec.entry.licence if spec.entry else None,
        tile_px=tile_px,
        seconds=seconds,
    )


def _fitting(settings: NetworkSettings) -> list[str]:
    """Return the names of the catalogue whose tensors a file holds, all of them in the right shapes."""
    path = weights_file(settings)
    state = read_tensors(path)
    found = []
    for name in CATALOGUE:
        try:
            fitted(state, described(spec_of(settings.model_copy(update={"encoder": name}))), str(path))
        except ConfigError:
            continue
        found.append(name)
    if not found:
        raise ConfigError(f"{path}: fits no encoder of the list; name the one that it belongs to: --encoder NAME")
    return found
