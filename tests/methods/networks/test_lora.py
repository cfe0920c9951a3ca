"""Low-rank updates of attention layers."""

from __future__ import annotations

import pytest
import timm
import torch
from torch import nn

from tissuebench.errors import ConfigError
from tissuebench.methods.networks import build_segmenter
from tissuebench.methods.networks.check_network import check_network, predict_blank
from tissuebench.methods.networks.lora import LowRankLinear, add_low_rank_updates
from tissuebench.methods.networks.settings import EncoderMode, NetworkSettings


def test_the_update_is_the_formula():
    """``W x + b + 2 B A x``, and exactly the layer before the first step."""
    torch.manual_seed(0)
    linear, x = nn.Linear(6, 4), torch.randn(3, 6)
    update = LowRankLinear(linear, 2)
    assert torch.equal(update(x), linear(x))
    nn.init.normal_(update.up)
    expected = linear(x) + 2 * x @ update.down.T @ update.up.T
    assert torch.allclose(update(x), expected, atol=1e-6)
    assert torch.allclose(nn.functional.linear(x, update.weight, update.bias), expected, atol=1e-6)
    assert {name for name, each in update.named_parameters() if each.requires_grad} == {"down", "up"}


@pytest.fixture
def weights(tmp_path):
    def of(encoder: str) -> str:
        path = tmp_path / f"{encoder}.pt"
        torch.save(timm.create_model(encoder, num_classes=0).state_dict(), path)
        return str(path)

    return of


@pytest.mark.parametrize("encoder", ["vit_tiny_patch16_224", "vit_small_patch16_dinov3", "eva02_tiny_patch14_224"])
def test_a_step_trains_the_updates_and_the_decoder_alone(weights, encoder):
    settings = NetworkSettings(
        encoder=encoder, weights=weights(encoder), encoder_mode=EncoderMode.LORA, lora_rank=4, decoder="fpn",
        decoder_channels=32,
    )  # fmt: skip
    check_network(settings, 3, 64)
    network = build_segmenter(settings, 3).train()
    optimizer = torch.optim.SGD([each for each in network.parameters() if each.requires_grad], lr=0.1)
    for _ in range(2):  # A has a gradient once B is not zero
        optimizer.zero_grad()
        network(torch.rand(2, 3, 64, 64)).square().mean().backward()
        optimizer.step()
    learning = {name for name, each in network.named_parameters() if each.grad is not None and each.grad.any()}
    updates = {name for name, _ in network.named_parameters() if name.endswith((".down", ".up"))}
    assert {name for name in learning if name.startswith("encoder.")} == updates
    assert {name for name, _ in network.neck.named_parameters(prefix="neck")} <= learning
    blocks = len(network.encoder.model.blocks)
    layers = {name.rsplit(".", 1)[0] for name in updates}
    assert len(layers) >= 2 * blocks  # qkv, together or apart, and the projection


def test_rank_decides_the_number_of_trained_values(weights):
    path = weights("vit_tiny_patch16_224")
    trained = {}
    for rank in (2, 8):
        settings = NetworkSettings(
            encoder="vit_tiny_patch16_224", weights=path, encoder_mode="lora", lora_rank=rank, decoder="fpn"
        )
        encoder = build_segmenter(settings, 3).encoder
        trained[rank] = sum(each.numel() for each in encoder.parameters() if each.requires_grad)
    assert trained[8] == 4 * trained[2] == 8 * 12 * (192 + 576 + 192 + 192)


def test_a_network_without_attention_is_refused(tmp_path):
    path = tmp_path / "resnet.pt"
    torch.save(timm.create_model("resnet18").state_dict(), path)
    with pytest.raises(ConfigError, match="encoder_mode 'lora' adapts attention layers; 'resnet18' has none"):
        build_segmenter(NetworkSettings(encoder="resnet18", weights=str(path), encoder_mode="lora"), 3)


def test_an_update_that_the_network_reads_past_is_refused(weights):
    """Some attention multiplies by the weight of its layer instead of calling it."""
    settings = NetworkSettings(
        encoder="vit_tiny_patch16_224", weights=weights("vit_tiny_patch16_224"), encoder_mode="lora", decoder="fpn"
    )
    network = build_segmenter(settings, 3)
    attention = network.encoder.model.blocks[3].attn
    passed = attention.proj
    attention.proj = nn.Linear(192, 192)
    attention.forgotten = passed
    with pytest.raises(ConfigError, match="attention does not call its layers"):
        predict_blank(network, 64)


def test_layers_outside_attention_stay():
    network = timm.create_model("vit_tiny_patch16_224", num_classes=0)
    assert add_low_rank_updates(network, 2) == 24
    assert type(network.blocks[0].mlp.fc1) is nn.Linear
