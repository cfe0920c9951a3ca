"""Fits that record every sample they are shown, whole and resumed; run as a program, fits in two processes."""

from __future__ import annotations

import hashlib
import json
import os
import sys
from pathlib import Path

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from tests.datasets.loading.steps import SEED, STREAMS, view_of
from tissuebench.datasets.loading.augment_settings import AugmentSettings
from tissuebench.datasets.loading.datamodule import LoaderSettings, TileDataModule
from tissuebench.datasets.splits import Split
from tissuebench.datasets.store.tile_store import TileStore
from tissuebench.datasets.types import Stream, Supervision

FIT_STEPS = 6
EVERYTHING = AugmentSettings(
    color=0.3,
    hue=0.1,
    color_probability=0.5,
    scale=0.3,
    crop_px=24,
    blur=1,
    blur_probability=0.5,
    stain=0.1,
)
SHUFFLED = Stream(Supervision.MASKS, 7, augmentation={"orientations": "flips", "crop_px": 16}, shuffled=True)


class _Recorder(LightningModule):
    """A network of one number, and what it was shown: by step and stream, a digest of each sample."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.seen = []

    def training_step(self, batch, batch_idx):
        self.seen.append({name: self._samples(one) for name, one in batch.items()})
        return (self.weight - 1).square().sum()

    @staticmethod
    def _samples(batch):
        tensors = [t for t in (batch.images, batch.masks, batch.tags, batch.excluded) if t is not None]
        return [
            hashlib.sha256(b"".join(t.numpy().tobytes() for t in one)).hexdigest() for one in zip(*tensors, strict=True)
        ]

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


class _SaveAt(Callback):
    """Writes a checkpoint in the middle, while batches are being prepared, and lets the fit go on."""

    def __init__(self, step, path):
        self._step, self._path = step, path

    def on_train_batch_end(self, trainer, *_):
        if trainer.global_step == self._step:
            trainer.save_checkpoint(self._path)


def fit_and_resume(store, split, workers, processes, stop, folder):
    """What an uninterrupted fit saw, and what one saw that went on from its checkpoint of step ``stop``."""
    count, _, start_method = workers.partition(" ")
    settings = LoaderSettings(int(count), start_method=start_method or "forkserver")
    folder.mkdir(exist_ok=True)
    checkpoint = folder / "middle.ckpt"
    seen = {}
    streams = STREAMS | {"shuffled": SHUFFLED}
    for run in ("whole", "resumed"):
        data = TileDataModule(store, view_of(store, split), streams, SEED, FIT_STEPS, EVERYTHING, loader=settings)
        model = _Recorder()
        trainer = Trainer(
            accelerator="cpu",
            devices=processes,
            strategy="ddp" if processes > 1 else "auto",
            max_steps=FIT_STEPS,
            max_epochs=-1,
            callbacks=[_SaveAt(stop, checkpoint)] if run == "whole" else [],
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            default_root_dir=folder,
        )
        trainer.fit(model, data, ckpt_path=None if run == "whole" else checkpoint, weights_only=True)
        assert trainer.global_step == FIT_STEPS
        assert trainer.world_size == processes
        if run == "resumed":
            assert data.state_dict() == {"step": FIT_STEPS}
        seen[run] = model.seen
    state = torch.load(checkpoint, weights_only=True)
    assert state["TileDataModule"] == state["loops"]["fit_loop"]["state_dict"]["combined_loader"][0] == {"step": stop}
    return seen


if __name__ == "__main__":  # Lightning starts this program a second time
    data_folder, number_of_workers, results = sys.argv[1:]
    opened = TileStore(Path(data_folder) / "store.zarr"), Split.read(Path(data_folder) / "split.json")
    shown = fit_and_resume(*opened, number_of_workers, 2, 2, Path(results))
    (Path(results) / f"rank{os.environ['LOCAL_RANK']}.json").write_text(json.dumps(shown))
