"""Pretrained weights of encoders: read from where the settings say, identified by content, under timm's names."""

from __future__ import annotations

import hashlib
import pickle
import re
import sys
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import timm
import torch
from torch import Tensor, nn

from tissuebench.errors import ConfigError
from tissuebench.methods.networks.encoder_spec import spec_of
from tissuebench.methods.networks.hub import WEIGHTS_NAMES, hub_file
from tissuebench.methods.networks.packaged_weights import packaged_file
from tissuebench.methods.networks.settings import HUB, NetworkSettings, Weights
from tissuebench.methods.networks.transformers_names import dinov2_names

_CONTAINERS = ("state_dict", "model", "teacher", "module")
_SHOWN = 3
_SCALAR: Any = np.float64(0).__reduce__()[0]
_NUMPY_SCALARS: list[Any] = [
    np.dtype,
    type(np.dtype(np.float64)),
    type(np.dtype(np.float32)),
    _SCALAR,
    (_SCALAR, "numpy.core.multiarray.scalar"),  # its name before NumPy 2
]
"""What unpickling a NumPy scalar calls; none of it runs code of the file."""


def weights_sha256(settings: NetworkSettings) -> str | None:
    """Return the hash of the encoder's pretrained weights: of names, types, shapes and values, not of a path or format.

    The same tensors as ``.bin`` and as ``.safetensors``, here or elsewhere, are the same weights. None for random ones.

    Raises:
        ConfigError: unknown encoder, or weights that cannot be read.
    """
    spec_of(settings)
    if settings.weights == Weights.NONE:
        return None
    path = _file(settings)
    if path is None:
        return _hash_of_timm(settings.encoder)
    stat = path.stat()
    return _hash_of_file(path, stat.st_size, stat.st_mtime_ns)


@lru_cache(maxsize=16)
def _hash_of_timm(encoder: str) -> str:
    return hash_of_tensors(_timm_state(encoder))


@lru_cache(maxsize=16)
def _hash_of_file(path: Path, size: int, modified_ns: int) -> str:
    """Return the hash of a file that was not changed since: size and time are part of the cache's key."""
    return hash_of_tensors(read_tensors(path))


def hash_of_tensors(state: Mapping[str, Tensor]) -> str:
    """Return the SHA-256 (hex) over names, types, shapes and values, in the order of names."""
    digest = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def pretrained_state(settings: NetworkSettings, model: nn.Module) -> dict[str, Tensor] | None:
    """Return the pretrained weights under the names of ``model``; None for random ones.

    Args:
        settings: network settings.
        model: timm model that they name, as built by ``timm.create_model`` without its classifier; only names and
            shapes matter, so it may be on the meta device.

    Raises:
        ConfigError: the weights cannot be read, or belong to another model.
    """
    if settings.weights == Weights.NONE:
        return None
    path = _file(settings)
    if path is None:
        return fitted(_timm_state(settings.encoder), model, f"timm, {settings.encoder}")
    state = read_tensors(path)
    if settings.weights == Weights.PACKAGE:
        state = _in_order(state, settings.encoder, path)
    return fitted(state, model, str(path))


def weights_file(settings: NetworkSettings) -> Path:
    """Return the file with the pretrained weights.

    Raises:
        ConfigError: there is none, or it cannot be had.
    """
    path = _file(settings)
    if path is None:
        raise ConfigError(f"network.weights: '{settings.weights}' of {settings.encoder!r} is no file")
    return path


def _file(settings: NetworkSettings) -> Path | None:
    """Return the file with the weights; None where only timm knows how to get it."""
    if settings.weights == Weights.PACKAGE:
        return packaged_file(settings.encoder)
    if settings.weights == Weights.TIMM:
        spec = spec_of(settings)
        is_gated = spec.entry is not None and spec.entry.gated
        return None if spec.hub is None else hub_file(spec.hub, WEIGHTS_NAMES, "network.weights", is_gated)
    if settings.weights.startswith(HUB):
        return hub_file(settings.weights.removeprefix(HUB), WEIGHTS_NAMES, "network.weights")
    path = Path(settings.weights)
    if path.is_dir():
        found = next((path / name for name in WEIGHTS_NAMES if (path / name).is_file()), None)
        if found is None:
            raise ConfigError(f"network.weights: {path} holds none of {', '.join(WEIGHTS_NAMES)}")
        return found
    if not path.is_file():
        raise ConfigError(
            f"network.weights: no such file or folder: {path}; give a path, 'hf-hub:owner/name', 'timm', 'package' or "
            "'none'"
        )
    return path


def read_tensors(path: Path, key: str | None = "network.weights") -> dict[str, Tensor]:
    """Return the named tensors of a file; nothing in it is run.

    Beside tensors, a pickle may hold NumPy's scalars, as checkpoints with the best score do.

    Args:
        path: ``.safetensors``, or what ``torch.save`` wrote.
        key: setting that names the file, for messages; None if the caller adds it.

    Raises:
        ConfigError: not a file of tensors, cut off, or a pickle with more than tensors.
    """
    where = f"{key}: {path}" if key else str(path)
    try:
        if path.suffix == ".safetensors":
            return safetensors.torch.load_file(path)
        with torch.serialization.safe_globals(_NUMPY_SCALARS):
            document = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise ConfigError(
            f"{where}: holds more than tensors, which would have to be run to be read: refused; "
            "save its state_dict() as .safetensors"
        ) from None
    except Exception as error:  # readers of untrusted bytes fail in as many ways as there are bytes
        said = (str(error).strip().splitlines() or [""])[0]
        raise ConfigError(f"{where}: cannot be read ({type(error).__name__}: {said})") from None
    while isinstance(document, Mapping):
        inner = next((document[key] for key in _CONTAINERS if isinstance(document.get(key), Mapping)), None)
        if inner is None:
            tensors = {str(name): value for name, value in document.items() if isinstance(value, Tensor)}
            if tensors:
                return tensors
            break
        document = inner
    raise ConfigError(f"{where}: holds no named tensors")


def fitted(state: Mapping[str, Tensor], model: nn.Module, where: str) -> dict[str, Tensor]:
    """Return the tensors of ``state`` under the names of ``model``, every one of them; others are left out.

    Understood are timm's names, also behind a prefix (``visual.trunk.``, ``module.``, ``backbone.``), those of DINOv2
    and of transformers' DINOv2, and what timm itself converts.

    Raises:
        ConfigError: a tensor is missing or has another shape, or the file is that of a larger model.
    """
    wanted = {name: tensor.shape for name, tensor in model.state_dict().items()}
    given = without_prefix(dinov2_names(state), wanted)
    convert = getattr(sys.modules[type(model).__module__], "checkpoint_filter_fn", None)
    if convert is not None:
        try:
            given = convert(dict(given), model)
        except (KeyError, RuntimeError, ValueError, AttributeError, IndexError) as error:
            raise ConfigError(
                f"network.weights: {where}: not those of this encoder ({type(error).__name__}: {error})"
            ) from None
    for name in wanted:
        if name.endswith("num_batches_tracked"):  # a counter that some files omit
            given.setdefault(name, torch.zeros((), dtype=torch.int64))
    missing = [name for name in wanted if name not in given]
    if missing:
        raise ConfigError(
            f"network.weights: {where}: lacks {len(missing)} of {len(wanted)} tensors of the encoder "
            f"({', '.join(missing[:_SHOWN])}): weights of another model"
        )
    for name, shape in wanted.items():
        if given[name].shape != shape:
            raise ConfigError(
                f"network.weights: {where}: {name} is {_times(given[name].shape)}, the encoder's is {_times(shape)}: "
                "weights of another model"
            )
    parts = {re.split(r"\.\d+\.", name)[0] for name in wanted if re.search(r"\.\d+\.", name)}
    more = [name for name in given if name not in wanted and re.split(r"\.\d+\.", name)[0] in parts]
    if more:
        raise ConfigError(
            f"network.weights: {where}: holds {len(more)} tensors that the encoder lacks ({', '.join(more[:_SHOWN])}): "
            "weights of another model"
        )
    return {name: given[name] for name in wanted}


def without_prefix(state: Mapping[str, Tensor], wanted: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return the part of ``state`` behind the prefix under which most of the wanted names are found."""
    anchors = list(wanted)
    found: dict[str, int] = {}
    for name in state:
        for anchor in (anchors[0], anchors[-1], "patch_embed.proj.weight"):
            if name == anchor or name.endswith(f".{anchor}"):
                prefix = name.removesuffix(anchor)
                found[prefix] = found.get(prefix, 0) + 1
    if not found or "" in found:
        return dict(state)
    best = max(found, key=lambda prefix: sum(f"{prefix}{name}" in state for name in wanted))
    return {name.removeprefix(best): tensor for name, tensor in state.items() if name.startswith(best)}


def _timm_state(encoder: str) -> dict[str, Tensor]:
    """Return timm's own weights, from its cache or downloaded.

    Raises:
        ConfigError: timm has none, or cannot get them.
    """
    try:
        return dict(timm.create_model(encoder, pretrained=True).state_dict())
    except (OSError, RuntimeError, ValueError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ConfigError(
            f"network.encoder {encoder!r}: pretrained weights cannot be loaded ({reason}); set network.weights to a "
            "path, 'package' or 'none'"
        ) from None


def _in_order(state: Mapping[str, Tensor], encoder: str, path: Path) -> dict[str, Tensor]:
    """Return the weights of a package, which hold the tensors of timm's model in the same order under other names."""
    with torch.device("meta"):
        names = list(timm.create_model(encoder).state_dict())
    if len(state) != len(names):
        raise ConfigError(f"{path}: holds {len(state)} tensors, timm's {encoder!r} has {len(names)}")
    return dict(zip(names, state.values(), strict=True))


def _times(shape: torch.Size) -> str:
    return " x ".join(map(str, shape)) or "a scalar"
