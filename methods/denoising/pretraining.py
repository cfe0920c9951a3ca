"""Label-free stage of GenSelfDiff-HIS: predict the noise in noisy tissue (Purma et al., IEEE TMI 2024)."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated, cast

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from tissuebench.methods.api import (
    Settings,
    Snapshot,
    Stream,
    StreamName,
    Supervision,
    Task,
    TileBatch,
    TrainingBatch,
)
from tissuebench.methods.denoising.sampling import denoised, sampled
from tissuebench.methods.denoising.schedule import NoiseSchedule, Reduction, ScheduleKind, denoising_loss
from tissuebench.methods.networks.diffusion_unet import DiffusionUNet, published_initialisation
from tissuebench.methods.networks.settings import Architecture, NetworkSettings
from tissuebench.methods.networks.time_conditioned import TimedDenoiser
from tissuebench.methods.networks.unet_segmenter import resized
from tissuebench.methods.teacher_student.averaging import Averaging
from tissuebench.methods.teacher_student.teacher import MovingAverage, TeacherBuffers

TISSUE = StreamName("tissue", TileBatch)
_SHOWN_STEPS, _SAMPLING_STEPS = (100, 300, 600), 25
AVERAGED = "average.module."
"""Prefix of the names of averaged weights in the stage's state; those of the last step start with ``network.``."""


class Initialisation(StrEnum):
    """Initialisation of convolutions and group norms: torch's ``default``, or the ``published`` N(0, .01^2)."""

    DEFAULT = "default"
    PUBLISHED = "published"


class DenoiserSettings(Settings):
    """Network settings that both stages share.

    Attributes:
        network: the shared network, conditioned on time, or the published U-Net.
        width, multipliers: channels of the U-Net's finest level, and those of its levels as multiples of that
            (``paper``).
        patch: edge length of the pixel patches that the U-Net treats as one pixel; published: 1 (``paper``).
        fullres_skip: whether the U-Net's head also reads the encoder's finest map; published: false (``paper``).
        initialisation: initial weights before pre-training (``paper``).
    """

    network: Architecture = Architecture.MATCHED
    width: int = Field(64, ge=8, multiple_of=8)
    multipliers: tuple[Annotated[int, Field(ge=1)], ...] = Field((1, 2, 4, 8), min_length=2)
    patch: int = Field(1, ge=1, le=8)
    fullres_skip: bool = False
    initialisation: Initialisation = Initialisation.DEFAULT


class DenoisingSettings(DenoiserSettings):
    """Settings that pre-training depends on.

    Attributes:
        schedule: noise schedule over the 1000 steps.
        gamma: exponent of the P2 weights ``1 / (1 + SNR)^gamma``; 0 weights all steps equally.
        reduction: reduction of the loss; the published code sums over the batch.
        crop_px: edge length of random crops of the tiles, null for whole tiles; a quarter of the pixels makes a step
            four times cheaper.
        average: decay of an exponential moving average of the weights, which is then passed on to fine-tuning; null: no
            average, as published.
    """

    schedule: ScheduleKind = ScheduleKind.QUADRATIC
    gamma: float = Field(1.0, ge=0)
    reduction: Reduction = Reduction.MEAN
    crop_px: int | None = Field(None, ge=16)
    average: float | None = Field(None, gt=0, lt=1)


def build_denoiser(
    network: NetworkSettings, settings: DenoiserSettings, n_classes: int
) -> TimedDenoiser | DiffusionUNet:
    """Return the noise predictor; it takes noisy images (B, 3, H, W) in -1..1 and steps (B,).

    The shared network starts from the weights that a segmenter of ``n_classes`` starts from.

    Raises:
        ConfigError: the shared network cannot be built.
    """
    if settings.network is Architecture.MATCHED:
        denoiser: TimedDenoiser | DiffusionUNet = TimedDenoiser(network, n_classes)
    else:
        denoiser = build_unet(settings, 3)
    return denoiser.to(memory_format=torch.channels_last)


def build_unet(settings: DenoiserSettings, out_channels: int) -> DiffusionUNet:
    """Return the published U-Net with ``out_channels`` outputs, initialised according to the settings."""
    unet = DiffusionUNet(
        width=settings.width,
        multipliers=settings.multipliers,
        out_channels=out_channels,
        patch=settings.patch,
        fullres_skip=settings.fullres_skip,
    )
    if settings.initialisation is Initialisation.PUBLISHED:
        published_initialisation(unet)
    return unet.to(memory_format=torch.channels_last)


class Denoising(Averaging[DenoisingSettings]):
    """Pre-training that predicts the noise in tiles of all training patients, without labels.

    ``L = mean of w_t mean over pixels of (eps - eps_hat(x_t, t))^2``, t uniform over the steps, x_t from
    ``NoiseSchedule.noised``, w_t its P2 weights. Images are in -1..1.
    """

    kind = "tissuebench.methods.denoising.pretraining:Denoising"
    half_precision = True  # group norms, both softmaxes and the weighted error are float32

    def __init__(self, task: Task, config: DenoisingSettings) -> None:
        super().__init__(task, config)
        self.schedule = NoiseSchedule(self.config.schedule)
        self.network = build_denoiser(task.network, self.config, len(task.class_map))
        self.average: AveragedModel | None = None
        if self.config.average is not None:
            self.average = MovingAverage(self.network, self.config.average, False, TeacherBuffers.AVERAGE)
            self.average.requires_grad_(False)

    @classmethod
    def wants_images(cls, config: DenoisingSettings) -> bool:
        """Always true: noise is added to images, so cached features of clean ones are of no use."""
        return True

    def streams(self) -> Mapping[str, Stream]:
        """Return one stream: unlabelled tissue of all training patients, each sampled equally often."""
        return {TISSUE: Stream(Supervision.NONE, self.task.training.batch_size)}

    def training_step(self, batch: TrainingBatch, batch_idx: int) -> Tensor:
        """Return the weighted squared error of the predicted noise."""
        tissue = batch[TISSUE]
        clean = self._cut(tissue.pixels) * 2 - 1
        t = tissue.part_of(torch.randint(len(self.schedule.betas), (tissue.whole,), device=clean.device))
        noise = tissue.part_of(torch.randn(tissue.whole, *clean.shape[1:], device=clean.device, dtype=clean.dtype))
        noisy = self.schedule.noised(clean, noise, t).contiguous(memory_format=torch.channels_last)
        weights = self.schedule.weights(t, self.config.gamma)
        return denoising_loss(self.network(noisy, t), noise, weights, self.config.reduction)

    def _cut(self, images: Tensor) -> Tensor:
        edge, size = self.config.crop_px, images.shape[-1]
        if edge is None or edge >= size:
            return images
        top, left = torch.randint(size - edge + 1, (2,)).tolist()
        return images[..., top : top + edge, left : left + edge]

    @property
    def averaged(self) -> tuple[AveragedModel, nn.Module] | None:
        """The weight average and the network it follows; None if no average is configured."""
        return None if self.average is None else (self.average, self.network)

    def snapshot(self, images: Tensor, generator: torch.Generator) -> Snapshot:
        """Return a snapshot with the loss at fixed noise and steps, one-step denoising results, and samples."""
        clean = images.float() / 127.5 - 1
        noise = torch.randn(clean.shape, generator=generator).to(clean.device)
        t = torch.linspace(0, len(self.schedule.betas) - 1, len(clean), device=clean.device).round().long()
        predicted = self._predict(self.schedule.noised(clean, noise, t), t)
        # Not ``denoising_loss``: that communicates with all processes, but only one takes snapshots.
        errors = (noise - predicted.float()).square().mean(dim=(1, 2, 3))
        loss = (self.schedule.weights(t, self.config.gamma) * errors).mean()
        columns = {"image": clean}
        for step in _SHOWN_STEPS:
            at = torch.full_like(t, step)
            noisy = self.schedule.noised(clean, noise, at)
            columns[f"step {step}"] = noisy
            columns[f"step {step}, denoised"] = denoised(self._predict, self.schedule, noisy, at)
        columns["sample"] = sampled(self._predict, self.schedule, noise, _SAMPLING_STEPS)
        shown = {title: (column.clamp(-1, 1) + 1) / 2 for title, column in columns.items()}
        return Snapshot({"validation_loss": float(loss)}, shown)

    def maps(self, images: Tensor) -> Tensor:
        """Return decoder maps of clean images, at a time step with little noise."""
        clean = (images.float() / 127.5 - 1).contiguous(memory_format=torch.channels_last)
        return decoder_maps(self.trained, clean, torch.full((len(clean),), _SHOWN_STEPS[0], device=clean.device))

    def _predict(self, noisy: Tensor, t: Tensor) -> Tensor:
        return cast("Tensor", self.trained(noisy.contiguous(memory_format=torch.channels_last), t))

    @property
    def trained(self) -> nn.Module:
        """The network passed on to fine-tuning: the average, if there is one."""
        return self.network if self.average is None else self.average.module


def trained_weights(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the weights to pass on, by name in the network, from the state of a finished ``Denoising`` stage."""
    prefix = AVERAGED if any(name.startswith(AVERAGED) for name in state) else "network."
    return {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}


def decoder_maps(network: nn.Module, images: Tensor, t: Tensor) -> Tensor:
    """Return decoder maps (B, C, h, w) of a noise predictor for images in -1..1.

    For the shared network these are its last maps; for the U-Net, those of all levels, concatenated at the resolution
    of the middle level (after Baranchuk et al., ICLR 2022).
    """
    if isinstance(network, TimedDenoiser):
        return network.maps(images, t)
    levels = cast("DiffusionUNet", network).features(images, t)
    size = tuple(levels[len(levels) // 2].shape[-2:])
    return torch.cat([resized(level, cast("tuple[int, int]", size)) for level in levels], dim=1)
