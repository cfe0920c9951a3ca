"""Loading of a trained method from a finished trial in the home folder."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tissuebench.datasets.ingest.dataset import dataset_folder
from tissuebench.datasets.store.tile_store import TileStore
from tissuebench.errors import ConfigError, DataError
from tissuebench.methods.api.method import Method
from tissuebench.methods.api.registry import find_method
from tissuebench.methods.api.stage import Task
from tissuebench.methods.networks.settings import Weights
from tissuebench.methods.networks.weights_file import without_files
from tissuebench.plans.trial import Trial
from tissuebench.sweep.jobs import State
from tissuebench.sweep.view.lookup import Found, find_trial
from tissuebench.training.checkpoints import FITTED, weights_of


@dataclass(frozen=True, slots=True)
class Trained:
    """A finished trial and its store.

    Attributes:
        found: its id and folder.
        trial: its settings.
        store: the store that it was trained on; only classes, resolution and tile size are read from it, no labels.
    """

    found: Found
    trial: Trial
    store: TileStore

    @property
    def key(self) -> str:
        """Id of the trial as in its file names; another release may compute a different one."""
        return self.found.key

    @property
    def weights_sha256(self) -> str:
        """Hash of the file with its weights."""
        with (self.found.folder / FITTED).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    def method(self) -> Method[Any]:
        """Return the method with its weights, ready to predict.

        Raises:
            DataError: there are no weights, or they belong to another network.
            ConfigError: the network cannot be built here.
        """
        info = self.store.info
        weights = weights_of(self.found.folder)
        # Pretrained weights would be overwritten, and may no longer be there.
        network = self.trial.network.model_copy(update={"weights": Weights.NONE})
        tile_px = self.trial.augmentation.crop_px or info.tile_px
        task = Task(self.store.class_map, network, self.trial.training, tile_px, info.white)
        method = find_method(self.trial.method)(task, without_files(self.trial.config))
        try:
            method.load_state_dict(weights)
        except RuntimeError as error:
            reason = str(error).splitlines()[0].rstrip(":")
            raise DataError(f"{self.found.folder / FITTED}: holds the weights of another network ({reason})") from None
        return method.eval()


def find_trained(home: Path, prefix: str) -> Trained:
    """Return the finished trial whose id begins with ``prefix``.

    Raises:
        ConfigError: there is none, more than one, or it has not finished.
        DataError: its files, or the store that it was trained on, are missing or have changed.

    Examples:
        >>> trained = find_trained(Path("home"), "1c9ffe2a")
        >>> trained.trial.label
        'supervised masks:3p draw 0 seed 0'
        >>> method = trained.method()
    """
    found = find_trial(home, prefix)
    state = found.state
    if state is not State.DONE:
        raise ConfigError(
            f"trial {found.key} is {state.value}: only finished trials can predict (see 'tissuebench status')"
        )
    job = found.job
    if job is None or not (found.folder / FITTED).is_file():
        raise DataError(f"{found.folder / FITTED}: no such file; without it the trial must be trained again")
    trial = Trial.of_document(job.document["trial"])  # type: ignore[arg-type]  # JSON that we wrote
    store = TileStore(dataset_folder(home, trial.dataset) / "store.zarr")
    if store.content_hash != trial.store_sha256:
        raise DataError(f"{store.path}: is not the store that trial {found.key} was trained on")
    return Trained(found, trial, store)
