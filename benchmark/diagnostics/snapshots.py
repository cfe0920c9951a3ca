"""Snapshots of a stage at regular intervals during training: figures and a contact sheet in its folder."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from numpy.typing import NDArray
from torch import Tensor

from tissuebench.common.files import write_aside
from tissuebench.datasets.splits import Split
from tissuebench.datasets.store.tile_store import TileStore
from tissuebench.datasets.store.tiling import grid
from tissuebench.datasets.store.tissue import MIN_TISSUE_SHARE
from tissuebench.datasets.types import Tile
from tissuebench.diagnostics.contact_sheet import draw_pictures
from tissuebench.diagnostics.linear_probe import probe_miou, spaced
from tissuebench.diagnostics.snapshot_files import picture_of, snapshot_path
from tissuebench.methods.api.stage import Trainable

_TIMES, _TILES, _SEED = 4, 8, 0


class SnapshotCallback(Callback):
    """Calls ``Trainable.snapshot`` before the first step, at intervals and after the last; uses no global generator.

    Writes ``step-000100.json`` with the figures and ``step-000100.png`` with the pictures.

    Args:
        images: (B, 3, H, W) uint8.
        captions: captions of the images.
        folder: folder of the stage.
        probe: scores the features of the stage, if it has any.
    """

    def __init__(
        self,
        images: Tensor,
        captions: Sequence[str],
        folder: Path,
        probe: Callable[[Callable[[Tensor], Tensor]], float | None],
    ) -> None:
        self._images, self._captions, self._folder, self._probe = images, list(captions), folder, probe

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take the snapshot before training, or catch up on one that was due when the fit was interrupted."""
        if not snapshot_path(self._folder, trainer.global_step).is_file():
            self._take_if_due(trainer, pl_module)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: object, batch: object, batch_idx: int
    ) -> None:
        """Take a snapshot if due."""
        self._take_if_due(trainer, pl_module)

    def _take_if_due(self, trainer: Trainer, pl_module: LightningModule) -> None:
        due = {round(trainer.max_steps * part / _TIMES) for part in range(_TIMES + 1)}
        if trainer.global_step not in due or not isinstance(pl_module, Trainable):
            return
        step, device = trainer.global_step, pl_module.device
        pl_module.eval()
        with torch.no_grad(), trainer.precision_plugin.forward_context():
            seen = pl_module.snapshot(self._images.to(device), torch.Generator().manual_seed(_SEED))
            probed = None
            if pl_module.maps(self._images[:1].to(device)) is not None:
                probed = self._probe(lambda images: pl_module.maps(images.to(device)))  # type: ignore[arg-type, return-value]
        pl_module.train()
        if seen is None:
            return
        figures = dict(seen.figures) | ({} if probed is None else {"probe_miou": probed})
        shown = {title: _as_bytes(column) for title, column in seen.columns.items()}
        data = io.BytesIO()
        draw_pictures(self._captions, shown, _said(step, figures)).save(data, "PNG")
        path = snapshot_path(self._folder, step)
        write_aside(picture_of(path), data.getvalue())
        write_aside(path, json.dumps({"step": step, **figures}, indent=1).encode())


def snapshot_callback(module: Trainable[Any], store: TileStore, split: Split, folder: Path) -> SnapshotCallback | None:
    """Return the snapshot callback of a stage; None if it has nothing to show, or no tissue to show it on."""
    tiles = [] if type(module).snapshot is Trainable.snapshot else tiles_to_show(store, split)
    if not tiles:
        return None
    images = torch.from_numpy(store.images(tiles, store.info.tile_px))
    captions = [f"{tile.slide_id}, y {tile.y}, x {tile.x}" for tile in tiles]
    return SnapshotCallback(images, captions, folder, partial(probe_miou, store, split))


def tiles_to_show(store: TileStore, split: Split) -> list[Tile]:
    """Return evenly spaced tissue tiles of patients of ``val``, or of ``train`` if it is empty; no label is read."""
    part = set(split.patients("val") or split.patients("train"))
    tiles = []
    for slide in store.slides.values():
        if slide.patient_id in part:
            shares = zip(grid(slide, store.info.tile_px), store.tile_tissue(slide.slide_id), strict=True)
            tiles += [tile for tile, share in shares if share >= MIN_TISSUE_SHARE]
    return spaced(tiles, _TILES)


def _as_bytes(pictures: Tensor) -> NDArray[np.uint8]:
    """Convert (B, 3, H, W) in 0..1 to (B, H, W, 3) uint8."""
    return (pictures.float().clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1).cpu().numpy()


def _said(step: int, figures: Mapping[str, float]) -> str:
    said = ", ".join(f"{name.replace('_', ' ')} {value:.4g}" for name, value in figures.items())
    return f"After step {step}: {said}"
