"""Check of a network before anything is trained with it: built, with its weights, on one tile."""

from __future__ import annotations

from functools import lru_cache

import torch

from tissuebench.errors import ConfigError
from tissuebench.methods.networks.lora import LowRankLinear
from tissuebench.methods.networks.segmenter import Segmenter, build_segmenter
from tissuebench.methods.networks.settings import NetworkSettings


@lru_cache(maxsize=8)
def check_network(settings: NetworkSettings, n_classes: int, tile_px: int) -> None:
    """Build the shared network and predict a tile, so that a worker will not be the first to find that it cannot.

    Raises:
        ConfigError: the encoder cannot be built, its weights are not available or those of another model, the decoder
            cannot read its maps, or it cannot take tiles of this size.
    """
    network = build_segmenter(settings, n_classes, tile_px)
    try:
        predict_blank(network, tile_px)
    except (RuntimeError, ValueError, TypeError, AssertionError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ConfigError(
            f"network.encoder {settings.encoder!r} with decoder '{settings.decoder}' cannot predict a tile of "
            f"{tile_px} px ({reason})"
        ) from None


def predict_blank(network: Segmenter, tile_px: int) -> None:
    """Predict one blank tile; of low-rank updates, also differentiate, and find out whether the network uses them.

    Raises:
        ConfigError: a low-rank update without effect, as the encoder reads the weights of its layers past it.
    """
    updates = [module for module in network.modules() if isinstance(module, LowRankLinear)]
    with torch.set_grad_enabled(bool(updates)):
        logits = network.eval()(torch.zeros((1, 3, tile_px, tile_px), dtype=torch.uint8))
    if not updates:
        return
    unused = torch.autograd.grad(logits.sum(), [update.up for update in updates], allow_unused=True)
    if any(gradient is None for gradient in unused):
        raise ConfigError(
            "network.encoder_mode 'lora': this encoder's attention does not call its layers, so that an update would "
            "have no effect; use 'frozen' or 'finetune'"
        )
