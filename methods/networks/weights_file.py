"""A file of pretrained weights that a method's settings name: identified by its tensors, loaded only if they fit."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import TypeVar

from pydantic import Field, model_validator
from torch import Tensor, nn

from tissuebench.common.settings import Settings
from tissuebench.errors import ConfigError
from tissuebench.methods.networks.encoder_weights import hash_of_tensors

SettingsT = TypeVar("SettingsT", bound=Settings)
_COUNTER = "num_batches_tracked"
_SHOWN = 3


class WeightsFile(Settings, ABC):
    """Pretrained weights of one network. Users give a path; the hash is that of the tensors as the network takes them.

    The file is read when the path is given, so that a wrong one is reported before anything is trained, and again when
    the weights are loaded. The same tensors in another folder or format have the same hash.

    Attributes:
        path: absolute path; None if the weights are not to be loaded, as those of a trained network replace them.
        sha256: hash over names, types, shapes and values of the tensors.

    Examples:
        >>> settings = find_method("multilayer_pseudo").Config(backbone="paper", classifier_weights="resnet38.params")
        >>> settings.classifier_weights.sha256[:8]
        '1c9ffe2a'
    """

    path: str | None
    sha256: str = Field(pattern="^[0-9a-f]{64}$")

    @model_validator(mode="before")
    @classmethod
    def _of_path(cls, value: object) -> object:
        if not isinstance(value, str | Path):
            return value
        path = Path(value).expanduser().absolute()
        try:
            if not path.is_file():
                raise ConfigError(f"no such file: {path}")
            stat = path.stat()
            return {"path": str(path), "sha256": _hash_of(cls, path, stat.st_size, stat.st_mtime_ns)}
        except ConfigError as error:
            raise ValueError(str(error)) from None  # the caller adds the key

    @classmethod
    @abstractmethod
    def read(cls, path: Path) -> dict[str, Tensor]:
        """Return all tensors that the network takes from the file, under its names and in its shapes.

        Raises:
            ConfigError: the file cannot be read, or holds the weights of another network.
        """

    def load_into(self, network: nn.Module) -> None:
        """Load the weights into a network, which keeps its other tensors; do nothing without a path.

        Raises:
            ConfigError: the file cannot be read, or holds other weights than when the plan was read.
        """
        if self.path is None:
            return
        tensors = self.read(Path(self.path))
        if hash_of_tensors(tensors) != self.sha256:
            raise ConfigError(
                f"{self.path}: holds other weights here than where the plan was read: copy the same file to this "
                "place, or run the command again"
            )
        network.load_state_dict(tensors, strict=False)


@lru_cache(maxsize=16)
def _hash_of(kind: type[WeightsFile], path: Path, size: int, modified_ns: int) -> str:
    """Return the hash of a file that has not changed since: size and time are part of the cache's key."""
    return hash_of_tensors(kind.read(path))


def without_files(settings: SettingsT) -> SettingsT:
    """Return the same settings, also for the networks, but none loads a file of weights."""
    changed: dict[str, Settings] = {}
    for name in type(settings).model_fields:
        value = getattr(settings, name)
        if isinstance(value, WeightsFile):
            changed[name] = value.model_copy(update={"path": None})
        elif isinstance(value, Settings):
            changed[name] = without_files(value)
    return settings.model_copy(update=changed)


def fitted_strictly(
    tensors: Mapping[str, Tensor], network: nn.Module, where: Path, dropped: tuple[str, ...] = ()
) -> dict[str, Tensor]:
    """Return the tensors of a network, every one of them; the file may hold no others.

    Args:
        tensors: tensors of the file, under the network's names.
        network: the network; only names and shapes matter, so it may be on the meta device.
        where: the file, for messages.
        dropped: prefixes of tensors that are left out of both, as those of a last layer for other classes. Counters of
            norms are always left out: some formats lack them, and nothing depends on them.

    Raises:
        ConfigError: a tensor is missing, unknown, no floating-point number or of another shape.
    """

    def kept(names: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {
            name: tensor
            for name, tensor in names.items()
            if not name.startswith(dropped) and not name.endswith(_COUNTER)
        }

    wanted, given = kept(network.state_dict()), kept(tensors)
    for what, names in (
        ("lacks", [name for name in wanted if name not in given]),
        ("holds, unknown to the network,", [name for name in given if name not in wanted]),
    ):
        if names:
            raise ConfigError(
                f"{where}: {what} {len(names)} tensors ({', '.join(names[:_SHOWN])}): weights of another network"
            )
    for name, tensor in wanted.items():
        found = given[name]
        if found.shape != tensor.shape or not found.is_floating_point():
            raise ConfigError(
                f"{where}: {name} is {_described(found)}, the network's is {_described(tensor)}: weights of another "
                "network"
            )
    return {name: given[name] for name in wanted}


def _described(tensor: Tensor) -> str:
    shape = " x ".join(map(str, tensor.shape)) or "scalar"
    return f"{shape} {str(tensor.dtype).removeprefix('torch.')}"
