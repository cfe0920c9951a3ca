"""Backbones: any network of timm with a pyramid of maps or with patch tokens."""

from __future__ import annotations

import copy

import pytest
import segmentation_models_pytorch as smp
import timm
import torch

from tissuebench.errors import ConfigError
from tissuebench.methods.networks import build_encoder, build_segmenter
from tissuebench.methods.networks.check_network import check_network
from tissuebench.methods.networks.settings import Decoder, EncoderMode, NetworkSettings, Weights

# class token; rotary positions and registers; SwiGLU; no class token; layer scale and registers; convolutional positions
TRANSFORMERS = {
    "vit_tiny_patch16_224": 16,
    "vit_small_patch16_dinov3": 16,
    "eva02_tiny_patch14_224": 14,
    "vit_small_patch14_reg4_dinov2": 14,
    "xcit_nano_12_p16_224": 16,
}


def images(height: int = 70, width: int = 100) -> torch.Tensor:
    return torch.randint(0, 256, (2, 3, height, width), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def settings(encoder: str, **more: object) -> NetworkSettings:
    return NetworkSettings(**{"encoder": encoder, "weights": Weights.NONE, "decoder_channels": 32, **more})


@pytest.mark.parametrize(("encoder", "patch"), TRANSFORMERS.items())
def test_tokens_are_maps_of_the_padded_image(encoder, patch):
    network = build_encoder(settings(encoder)).eval()
    with torch.inference_mode():
        maps = network.encode(images(70, 100))
    assert network.is_tokens
    assert network.multiple == 2 * patch
    assert network.strides == (patch,) * 4
    rows, columns = (-(-side // network.multiple) * 2 for side in (70, 100))
    assert [tuple(one.shape) for one in maps] == [(2, channels, rows, columns) for channels in network.channels]


def test_the_maps_of_tokens_are_those_of_timm():
    """The normalised tokens of evenly spaced blocks, without class token, in the order of the patches."""
    network = build_encoder(settings("vit_tiny_patch16_224")).eval()
    model = network.encoder.model
    batch = images(64, 96)
    with torch.inference_mode():
        maps = network.encode(batch)
        tokens = model.forward_features((batch.float() / 255 - network.mean) / network.std)
    assert torch.allclose(maps[-1].flatten(2).transpose(1, 2), tokens[:, 1:], atol=1e-5)
    seen = build_encoder(settings("vit_tiny_patch16_224", depths=2)).eval()
    seen.load_state_dict(network.state_dict())
    with torch.inference_mode():
        for one, other in zip(seen.encode(batch), (maps[1], maps[3]), strict=True):
            assert torch.equal(one, other)


def test_position_embeddings_are_resampled_to_the_image():
    """A constant image has the same tokens everywhere only where positions do not matter; sizes only change the grid."""
    network = build_encoder(settings("vit_tiny_patch16_224")).eval()
    with torch.inference_mode():
        small, large = (network.encode(torch.zeros(1, 3, side, side))[-1] for side in (64, 448))
    assert small.shape[-1] * 7 == large.shape[-1]
    assert small.isfinite().all() and large.isfinite().all()
    assert float(large.std(dim=(2, 3)).mean()) > 0


@pytest.mark.parametrize("encoder", [*TRANSFORMERS, "resnet18"])
def test_looking_through_each_map_depends_on_those_before_it(encoder):
    """What class activation maps need; the deepest map is the same, and a copy of the network has its own."""
    network = copy.deepcopy(build_encoder(settings(encoder, decoder=Decoder.FPN)).eval())
    batch = images(64, 64).float() / 255
    maps = network.encode(batch.requires_grad_(), through=True)
    gradients = torch.autograd.grad(maps[-1].square().sum(), (*maps[:-1], batch))
    assert all(float(gradient.abs().sum()) > 0 for gradient in gradients)
    assert torch.allclose(maps[-1], network.encode(batch)[-1], atol=1e-5)


@pytest.mark.parametrize("decoder", list(Decoder))
@pytest.mark.parametrize(("encoder", "depths"), [("vit_tiny_patch16_224", 4), ("eva02_tiny_patch14_224", 4)])
def test_every_decoder_reads_tokens(encoder, depths, decoder):
    """Logits are those of every pixel, the same from features; every trained weight has a gradient."""
    network = build_segmenter(settings(encoder, decoder=decoder, depths=depths, dropout=0.0), 3, 70)
    batch = images(70, 70)
    logits = network(batch)
    assert logits.shape == (2, 3, 70, 70)
    assert torch.allclose(network(network.encode(batch)), logits, atol=1e-5)
    logits.square().sum().backward()
    assert [name for name, each in network.named_parameters() if each.grad is None] == []


@pytest.mark.parametrize("depths", [1, 2, 3, 12])
def test_the_pyramid_reads_any_number_of_depths(depths):
    network = build_segmenter(settings("vit_tiny_patch16_224", depths=depths, decoder=Decoder.FPN), 3)
    assert len(network.channels) == depths
    assert network(images(32, 32)).shape == (2, 3, 32, 32)


@pytest.mark.parametrize("decoder", [Decoder.UNET, Decoder.FPN])
def test_on_a_pyramid_it_is_the_network_of_segmentation_models(decoder):
    """With the same weights, the logits of smp's U-Net, and of its FPN (with as many groups)."""
    network = build_segmenter(settings("resnet18", decoder=decoder), 3).eval()
    if decoder is Decoder.UNET:
        other = smp.Unet("tu-resnet18", encoder_weights=None, decoder_channels=(32, 16, 8, 8, 8), classes=3).eval()
    else:
        other = smp.FPN(
            "tu-resnet18",
            encoder_weights=None,
            decoder_pyramid_channels=32,
            decoder_segmentation_channels=32,
            classes=3,
        ).eval()
        for module in other.decoder.modules():
            if isinstance(module, torch.nn.GroupNorm):
                module.num_groups = 4
    other.encoder.load_state_dict(network.encoder.state_dict())
    other.decoder.load_state_dict(network.decoder.state_dict())
    other.segmentation_head.load_state_dict(network.head.state_dict())
    batch = images(64, 96)
    with torch.inference_mode():
        expected = other((batch.float() / 255 - network.mean) / network.std)
        assert torch.allclose(network(batch), expected, atol=1e-5)


def test_statistics_are_those_of_the_model():
    network = build_encoder(settings("vit_base_patch16_siglip_224"))
    assert network.mean.flatten().tolist() == [0.5] * 3 == network.std.flatten().tolist()
    own = build_encoder(settings("h0-mini"))
    assert own.mean.flatten().tolist() == pytest.approx([0.707223, 0.578729, 0.703617])


def test_swin_takes_tiles_of_any_size():
    assert build_segmenter(settings("swin_tiny_patch4_window7_224"), 3).eval()(images(96, 64)).shape == (2, 3, 96, 64)


@pytest.mark.parametrize(
    ("encoder", "more", "said"),
    [
        ("resnet18", {"decoder": "dpt"}, "network.decoder 'dpt' reads the tokens of vision transformers; 'resnet18'"),
        ("vit_tiny_patch16_224", {"decoder": "dpt", "depths": 3}, "network.depths: the DPT reads 4 depths"),
        ("vit_tiny_patch16_224", {"depths": 13}, "network.depths: vit_tiny_patch16_224 has 12 blocks, 13 are to be"),
        ("beit_base_patch16_224", {}, r"cannot predict a tile of 64 px \(Input height \(64\) doesn't match"),
        ("unii", {}, "network.encoder: unknown encoder 'unii': did you mean 'uni'"),
    ],
)
def test_what_cannot_work_is_told_in_one_line(encoder, more, said):
    with pytest.raises(ConfigError, match=said) as caught:
        check_network(settings(encoder, **more), 3, 64)
    assert "\n" not in str(caught.value)


def test_frozen_tokens_are_not_trained(tmp_path):
    path = tmp_path / "weights.pt"
    torch.save(timm.create_model("vit_tiny_patch16_224", num_classes=0).state_dict(), path)
    frozen = settings("vit_tiny_patch16_224", weights=str(path), encoder_mode=EncoderMode.FROZEN, decoder=Decoder.FPN)
    network = build_segmenter(frozen, 3).train()
    assert not network.encoder.training
    network(images(32, 32)).sum().backward()
    assert all(each.grad is None for each in network.encoder.parameters())
    assert all(each.grad is not None for each in network.neck.parameters())
