"""Names of DINOv2's tensors in the library transformers, translated to DINOv2's own, which timm understands."""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor

_MARK = "embeddings.patch_embeddings.projection.weight"
_RENAMED = (
    (r"^embeddings\.cls_token$", "cls_token"),
    (r"^embeddings\.mask_token$", "mask_token"),
    (r"^embeddings\.register_tokens$", "register_tokens"),
    (r"^embeddings\.position_embeddings$", "pos_embed"),
    (r"^embeddings\.patch_embeddings\.projection\.", "patch_embed.proj."),
    (r"^layernorm\.", "norm."),
    (r"^encoder\.layer\.(\d+)\.", r"blocks.\1."),
    (r"\.attention\.output\.dense\.", ".attn.proj."),
    (r"\.layer_scale([12])\.lambda1$", r".ls\1.gamma"),
    (r"\.mlp\.weights_in\.", ".mlp.w12."),
    (r"\.mlp\.weights_out\.", ".mlp.w3."),
)
_ATTENTION = re.compile(r"^(encoder\.layer\.\d+)\.attention\.attention\.(query|key|value)\.(weight|bias)$")
_PARTS = ("query", "key", "value")


def dinov2_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors under DINOv2's names if they have those of transformers, else as they are.

    Query, key and value are stacked in this order, as in DINOv2 and timm.
    """
    prefix = next((name.removesuffix(_MARK) for name in state if name.endswith(_MARK)), None)
    if prefix is None:
        return dict(state)
    own = {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}
    translated: dict[str, Tensor] = {}
    for name, tensor in own.items():
        if match := _ATTENTION.match(name):
            layer, part, kind = match.groups()
            if part == _PARTS[0] and all(f"{layer}.attention.attention.{each}.{kind}" in own for each in _PARTS):
                stacked = [own[f"{layer}.attention.attention.{each}.{kind}"] for each in _PARTS]
                translated[f"{_renamed(f'{layer}.')}attn.qkv.{kind}"] = torch.cat(stacked)
        else:
            translated[_renamed(name)] = tensor
    dim = translated["patch_embed.proj.weight"].shape[0]
    translated.setdefault("mask_token", torch.zeros(1, dim))  # timm recognises DINOv2 by it, and drops it
    return translated


def _renamed(name: str) -> str:
    for pattern, replacement in _RENAMED:
        name = re.sub(pattern, replacement, name)
    return name
