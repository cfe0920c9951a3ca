"""Architecture behind ``network.encoder``: a timm name, a name of the catalogue, or a model of the hub."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import timm
from timm.layers import SwiGLUPacked
from torch import nn

from tissuebench.errors import ConfigError, unknown_name
from tissuebench.methods.networks.encoder_catalogue import CATALOGUE, CatalogueEntry
from tissuebench.methods.networks.hub import hub_file
from tissuebench.methods.networks.settings import HUB, NetworkSettings

_CONFIG = "config.json"
_SWIGLU: Mapping[str, Any] = {"mlp_layer": SwiGLUPacked, "act_layer": nn.SiLU}


@dataclass(frozen=True, slots=True)
class EncoderSpec:
    """Architecture of an encoder, and the images that it was trained on.

    Attributes:
        architecture: timm name.
        arguments: of ``timm.create_model``, where they differ from those of the architecture.
        mean, std: of its training images, in 0..1.
        interpolation: with which its training images were resized; tiles are not resized.
        hub: repository of its weights; None where only timm knows how to read them.
        entry: entry of the catalogue, if it is one.
    """

    architecture: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    interpolation: str = "bicubic"
    hub: str | None = None
    entry: CatalogueEntry | None = None


def spec_of(settings: NetworkSettings) -> EncoderSpec:
    """Return the architecture that these settings name.

    Raises:
        ConfigError: unknown encoder, or one of the hub whose configuration is not available.
    """
    name = settings.encoder
    repository = name.removeprefix(HUB) if name.startswith(HUB) else None
    known = {entry.hub.casefold(): entry for entry in CATALOGUE.values()}
    entry = CATALOGUE.get(name) if repository is None else known.get(repository.casefold())
    if entry is not None:
        return _spec_of_entry(entry)
    if repository is not None:
        beside = Path(settings.weights) / _CONFIG
        path = beside if beside.is_file() else hub_file(repository, (_CONFIG,), "network.encoder")
        return _spec_of_file(path, repository)
    if not timm.is_model(name):
        near = get_close_matches(name, [*CATALOGUE, *timm.list_models()], n=8, cutoff=0.3)
        hint = "; see 'tissuebench encoders list', or name one of timm"
        raise ConfigError(f"network.encoder: {unknown_name('encoder', name, near)}{hint}")
    config = timm.get_pretrained_cfg(name)
    plain = config.hf_hub_id and not config.hf_hub_filename and not config.custom_load
    return EncoderSpec(name, {}, config.mean, config.std, config.interpolation, config.hf_hub_id if plain else None)


def _spec_of_entry(entry: CatalogueEntry) -> EncoderSpec:
    arguments = {**entry.arguments, **(_SWIGLU if entry.swiglu else {})}
    mean, std = entry.statistics
    return EncoderSpec(entry.architecture, arguments, mean, std, hub=entry.hub, entry=entry)


def _spec_of_file(path: Path, repository: str) -> EncoderSpec:
    """Return what a ``config.json`` describes: one of timm, or a DINOv2 transformer of the library transformers."""
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        if "architecture" in config:
            return _spec_of_timm(config, repository)
        if str(config.get("model_type")).startswith("dinov2"):
            return EncoderSpec("vit_base_patch14_dinov2", _dinov2_arguments(config), hub=repository)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(f"{path}: not a model configuration ({type(error).__name__}: {error})") from None
    raise ConfigError(
        f"{path}: describes {config.get('model_type') or 'no model'!r}; an encoder is a model of timm ('architecture') "
        "or a DINOv2 of transformers"
    )


def _spec_of_timm(config: Mapping[str, Any], repository: str) -> EncoderSpec:
    if not timm.is_model(config["architecture"]):
        raise ValueError(f"timm has no architecture {config['architecture']!r}")
    trained = config.get("pretrained_cfg", config)
    arguments = {key: value for key, value in config.get("model_args", {}).items() if key not in _OURS}
    if "img_size" not in arguments and trained.get("fixed_input_size"):
        arguments["img_size"] = trained["input_size"][-1]
    default = EncoderSpec("")
    return EncoderSpec(
        config["architecture"],
        arguments,
        _three(trained.get("mean", default.mean)),
        _three(trained.get("std", default.std)),
        trained.get("interpolation", default.interpolation),
        repository,
    )


_OURS = frozenset({"num_classes", "in_chans", "global_pool", "dynamic_img_size", "features_only", "out_indices"})
"""Arguments of a published model that the suite decides."""


def _dinov2_arguments(config: Mapping[str, Any]) -> dict[str, Any]:
    dim, ratio = int(config["hidden_size"]), float(config.get("mlp_ratio", 4))
    arguments: dict[str, Any] = {
        "embed_dim": dim,
        "depth": int(config["num_hidden_layers"]),
        "num_heads": int(config["num_attention_heads"]),
        "patch_size": int(config["patch_size"]),
        "img_size": int(config["image_size"]),
        "mlp_ratio": ratio,
    }
    if registers := int(config.get("num_register_tokens", 0)):
        arguments |= {"reg_tokens": registers, "no_embed_class": True}
    if config.get("use_swiglu_ffn"):
        hidden = (int(dim * ratio * 2 / 3) + 7) // 8 * 8  # as in DINOv2
        arguments |= {"mlp_ratio": (2 * hidden + 0.5) / dim, **_SWIGLU}
    return arguments


def _three(values: Any) -> tuple[float, float, float]:  # noqa: ANN401 - JSON
    red, green, blue = (float(value) for value in values)
    return red, green, blue
