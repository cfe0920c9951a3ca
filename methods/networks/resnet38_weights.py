"""ImageNet weights of ResNet-38, as published for MXNet or under the names of its PyTorch descendants.

The official code of Han et al. (``1_train_stage1.py``) starts from ``ilsvrc-cls_rna-a1_cls1000_ep-0001.params``, by the
authors of ResNet-38 (Wu, Shen & van den Hengel; github.com/itijyou/ademxapp, "model A1"). That and the repositories of
AffinityNet (github.com/jiwoon-ahn/psa) and SEAM link it from a file-sharing site; a hash is not published.
"""

from __future__ import annotations

import re
from pathlib import Path

import torch
from torch import Tensor

from tissuebench.errors import ConfigError
from tissuebench.methods.networks.encoder_weights import read_tensors
from tissuebench.methods.networks.mxnet_params import read_params
from tissuebench.methods.networks.paper_resnet38 import ResNet38
from tissuebench.methods.networks.weights_file import WeightsFile, fitted_strictly

_CLASSIFIER = "linear1000"
_OF_UNIT = re.compile(r"(res|bn)([2-7])(a|b[1-5])_branch(1|2a|2b1|2b2)_(\w+)")
_OF_NORM = {"gamma": "weight", "beta": "bias", "moving_mean": "running_mean", "moving_var": "running_var"}


class ResNet38Weights(WeightsFile):
    """Weights of ResNet-38: MXNet's ``.params``, or tensors under its PyTorch names in any of PyTorch's formats."""

    @classmethod
    def read(cls, path: Path) -> dict[str, Tensor]:
        """Return the tensors of ``ResNet38``; the file's classifier of 1000 classes is dropped."""
        with torch.device("meta"):
            network = ResNet38()
        return read_resnet38(path, network)


def read_resnet38(path: Path, network: ResNet38) -> dict[str, Tensor]:
    """Return the tensors of a ResNet-38 of any width.

    Args:
        path: ``.params`` of MXNet, else a file of PyTorch or safetensors.
        network: the network; only names and shapes matter.

    Raises:
        ConfigError: the file cannot be read, or is not exactly that of such a network.
    """
    if path.suffix == ".params":
        tensors = {torch_name(name, path): tensor for name, tensor in read_params(path).items()}
    else:
        tensors = read_tensors(path, key=None)
    return fitted_strictly(tensors, network, path, dropped=(f"{_CLASSIFIER}.",))


def torch_name(name: str, where: Path) -> str:
    """Return the PyTorch name of a tensor of the MXNet network.

    Args:
        name: as in ``arg:res2b1_branch2a_weight``, with or without ``arg:`` or ``aux:``.
        where: the file, for messages.

    Raises:
        ConfigError: no such tensor in the network.

    Examples:
        >>> torch_name("arg:res2b1_branch2a_weight", Path("a1.params"))
        'b2_1.conv_branch2a.weight'
        >>> torch_name("aux:bn7_moving_mean", Path("a1.params"))
        'bn7.running_mean'
    """
    plain = re.sub("^(arg|aux):", "", name)
    layer, _, what = plain.partition("_")
    if layer in ("conv1a", _CLASSIFIER) and what in ("weight", "bias"):
        return f"{layer}.{what}"
    if layer == "bn7" and what in _OF_NORM:
        return f"bn7.{_OF_NORM[what]}"
    if found := _OF_UNIT.fullmatch(plain):
        kind, stage, unit, branch, what = found.groups()
        known, part = ({"weight": "weight"}, "conv") if kind == "res" else (_OF_NORM, "bn")
        if what in known:
            return f"b{stage}{'' if unit == 'a' else f'_{unit[1]}'}.{part}_branch{branch}.{known[what]}"
    raise ConfigError(f"{where}: {name!r} is no tensor of ResNet-38: weights of another network")
