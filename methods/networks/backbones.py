"""Backbones of the encoders: feature maps of convolutional and hierarchical networks, tokens of vision transformers."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any, cast

import timm
import torch
from segmentation_models_pytorch.encoders import TimmUniversalEncoder
from torch import Tensor, nn

from tissuebench.errors import ConfigError
from tissuebench.methods.networks.encoder_spec import EncoderSpec, spec_of
from tissuebench.methods.networks.encoder_weights import pretrained_state
from tissuebench.methods.networks.lora import add_low_rank_updates
from tissuebench.methods.networks.settings import Decoder, EncoderMode, NetworkSettings

DEPTH = 5
"""Halvings of an image down to the deepest map of a pyramid."""
_FEATURES_USED = {Decoder.FPN: 4, Decoder.UNET: 5}
"""Number of deepest maps of a pyramid (down to stride 32) that a decoder reads."""
_DYNAMIC: tuple[Mapping[str, Any], ...] = ({"dynamic_img_size": True}, {"strict_img_size": False}, {})
"""Arguments with which an architecture takes images of any size; which one it knows differs."""


class PyramidBackbone(TimmUniversalEncoder):  # type: ignore[misc]  # untyped
    """Maps of halved resolutions, down to stride 32, of convolutional and hierarchical networks.

    Args:
        spec: architecture.
        used: number of deepest maps that are returned.

    Attributes:
        channels: of the maps, finest first; 0 where the network has no map at a stride.
        strides: image pixels per map pixel, along an edge.
        multiple: sides of images must be multiples of it.
    """

    is_tokens = False

    def __init__(self, spec: EncoderSpec, used: int) -> None:
        sizes = _size_arguments(spec)
        super().__init__(spec.architecture, pretrained=False, depth=DEPTH, **spec.arguments, **sizes)
        self._used = used
        self.channels = tuple(cast("list[int]", self.out_channels)[-used:])
        self.strides = tuple(2**level for level in range(DEPTH - used + 1, DEPTH + 1))
        self.multiple = 2**DEPTH

    def maps(self, images: Tensor, through: bool = False) -> tuple[Tensor, ...]:
        """Return the maps of normalised images, finest first; each depends on those before it."""
        return tuple(self(images)[-self._used :])

    def load(self, settings: NetworkSettings, spec: EncoderSpec) -> None:
        """Load the pretrained weights of the settings; raises as ``pretrained_state``."""
        state = pretrained_state(settings, described(spec))
        if state is None:
            return
        # timm flattens the names of some networks when they are cut into stages: stages.0.x becomes stages_0.x
        flat = {name.replace(".", "_"): tensor for name, tensor in state.items()}
        model = cast("nn.Module", self.model)
        model.load_state_dict({name: flat[name.replace(".", "_")] for name in model.state_dict()})


class TokenBackbone(nn.Module):
    """Patch tokens of a vision transformer as maps, all at the stride of a patch; class and register tokens are left.

    Args:
        spec: architecture.
        depths: number of blocks whose tokens are returned, evenly spaced, the last one among them.

    Attributes:
        channels, strides, multiple: as for ``PyramidBackbone``, shallowest first. The multiple is two patches, for the
            coarsest level of a pyramid that is made of the tokens.
    """

    is_tokens = True

    def __init__(self, spec: EncoderSpec, depths: int) -> None:
        super().__init__()
        self.model = timm_model(spec)
        blocks = len(cast("nn.ModuleList", self.model.blocks))
        if depths > blocks:
            raise ConfigError(f"network.depths: {spec.architecture} has {blocks} blocks, {depths} are to be read")
        self._indices = [blocks * place // depths - 1 for place in range(1, depths + 1)]
        info = cast("list[dict[str, int]]", self.model.feature_info)
        self.channels = tuple(info[index]["num_chs"] for index in self._indices)
        self.strides = tuple(info[index]["reduction"] for index in self._indices)
        self.multiple = 2 * self.strides[-1]

    def maps(self, images: Tensor, through: bool = False) -> tuple[Tensor, ...]:
        """Return the tokens of normalised images as maps (B, C, h, w), normalised by the final norm.

        Args:
            images: (B, 3, H, W).
            through: return maps of which each depends on those before it, as class activation maps need: the tokens
                that the next block reads, of which only the last are normalised.
        """
        norm = getattr(self.model, "norm", None)
        if not through:
            found = self.model.forward_intermediates(  # type: ignore[operator]
                images, indices=self._indices, norm=norm is not None, intermediates_only=True
            )
            return tuple(found)
        height, width = (side // self.strides[-1] for side in images.shape[-2:])
        taps: list[Tensor] = []

        def tap(block: nn.Module, inputs: object, tokens: Tensor) -> Tensor:
            """Lead the tokens through a map, so that what follows depends on it."""
            if tokens.ndim == 4:
                taps.append(tokens.permute(0, 3, 1, 2))
                return taps[-1].permute(0, 2, 3, 1)
            prefix = tokens.shape[1] - height * width
            taps.append(tokens[:, prefix:].transpose(1, 2).reshape(len(tokens), -1, height, width))
            return torch.cat([tokens[:, :prefix], taps[-1].flatten(2).transpose(1, 2)], dim=1)

        blocks = cast("nn.ModuleList", self.model.blocks)
        handles = [blocks[index].register_forward_hook(tap) for index in self._indices]
        try:
            self.model.forward_features(images)  # type: ignore[operator]
        finally:
            for handle in handles:
                handle.remove()
        *shallow, last = taps
        if norm is not None:
            last = norm(last.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        return (*shallow, last)

    def load(self, settings: NetworkSettings, spec: EncoderSpec) -> None:
        """Load the pretrained weights of the settings; raises as ``pretrained_state``."""
        state = pretrained_state(settings, self.model)
        if state is not None:
            self.model.load_state_dict(state)


def build_backbone(settings: NetworkSettings) -> tuple[PyramidBackbone | TokenBackbone, EncoderSpec]:
    """Build the backbone that the settings name, with its weights, trained as they say; also return what it is.

    Raises:
        ConfigError: unknown encoder, a network that has neither a pyramid nor patch tokens, weights that are not
            available or belong to another model, or a decoder that cannot read its maps.
    """
    spec = spec_of(settings)
    backbone: PyramidBackbone | TokenBackbone
    try:
        if _has_tokens(spec):
            backbone = TokenBackbone(spec, settings.depths)
        elif settings.decoder is Decoder.DPT:
            raise ConfigError(
                f"network.decoder 'dpt' reads the tokens of vision transformers; {settings.encoder!r} has feature "
                "maps: use 'unet' or 'fpn'"
            )
        else:
            backbone = PyramidBackbone(spec, _FEATURES_USED[settings.decoder])
    except (ValueError, TypeError, RuntimeError, AssertionError, AttributeError, NotImplementedError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ConfigError(
            f"network.encoder {settings.encoder!r}: has neither feature maps at strides 2 to 32 nor patch tokens "
            f"({reason})"
        ) from None
    backbone.load(settings, spec)
    if settings.encoder_mode is not EncoderMode.FINETUNE:
        backbone.requires_grad_(False)
    if settings.encoder_mode is EncoderMode.LORA and not add_low_rank_updates(backbone, settings.lora_rank):
        raise ConfigError(
            f"network.encoder_mode 'lora' adapts attention layers; {settings.encoder!r} has none: use 'finetune'"
        )
    return backbone, spec


def timm_model(spec: EncoderSpec) -> nn.Module:
    """Build the network of timm, without what follows its features."""
    return _without_head(_create(spec.architecture, {**spec.arguments, **_size_arguments(spec)}))


def described(spec: EncoderSpec) -> nn.Module:
    """Return the network of timm without memory: for names and shapes of its weights, and what it says of its maps."""
    return _on_meta(spec.architecture, _items(spec))[0]


def _has_tokens(spec: EncoderSpec) -> bool:
    model = described(spec)
    info: Any = getattr(model, "feature_info", ())
    reductions = {level["reduction"] for level in info} if isinstance(info, list) else set()
    return len(info or ()) > 1 and len(reductions) == 1 and hasattr(model, "blocks")


def _size_arguments(spec: EncoderSpec) -> Mapping[str, Any]:
    """Return the arguments with which the architecture takes images of any size, if it can."""
    return _on_meta(spec.architecture, _items(spec))[1]


def _items(spec: EncoderSpec) -> tuple[tuple[str, Any], ...]:
    return tuple(sorted(spec.arguments.items()))


@lru_cache(maxsize=32)
def _on_meta(architecture: str, arguments: tuple[tuple[str, Any], ...]) -> tuple[nn.Module, Mapping[str, Any]]:
    """Return the network on the meta device, and the first of the arguments for any size that it knows."""
    *attempts, last = _DYNAMIC
    with torch.device("meta"):
        for extra in attempts:
            try:
                return _without_head(_create(architecture, {**dict(arguments), **extra})), extra
            except TypeError:
                continue
        return _without_head(_create(architecture, {**dict(arguments), **last})), last


def _create(architecture: str, arguments: Mapping[str, Any]) -> nn.Module:
    return cast("nn.Module", timm.create_model(architecture, num_classes=0, **arguments))


def _without_head(model: nn.Module) -> nn.Module:
    """Remove what follows the tokens, which would be trained, stored and hashed for nothing."""
    for name in ("fc_norm", "head_drop", "head"):
        if isinstance(getattr(model, name, None), nn.Module):
            setattr(model, name, nn.Identity())
    if isinstance(getattr(model, "attn_pool", None), nn.Module):
        model.attn_pool = None  # type: ignore[assignment]
    return model
