"""Networks: pretrained encoders (timm) with decoders from segmentation-models-pytorch.

What is offered here is imported when it is first used: the catalogue of encoders needs neither torch nor timm.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tissuebench.methods.networks.encoded import Encoded
    from tissuebench.methods.networks.encoder import ImageEncoder, build_encoder
    from tissuebench.methods.networks.segmenter import Segmenter, build_segmenter

__all__ = ["Encoded", "ImageEncoder", "Segmenter", "build_encoder", "build_segmenter"]

_MODULES = {
    "Encoded": "encoded",
    "ImageEncoder": "encoder",
    "Segmenter": "segmenter",
    "build_encoder": "encoder",
    "build_segmenter": "segmenter",
}


def __getattr__(name: str) -> object:
    if name in _MODULES:
        return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
