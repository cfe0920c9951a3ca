"""The shared network: pretrained weights from a package, frozen encoders, features in place of images."""

from __future__ import annotations

import pytest
import segmentation_models_pytorch as smp
import torch
from pydantic import ValidationError

from tissuebench.errors import ConfigError
from tissuebench.methods.networks import ImageEncoder, build_encoder, build_segmenter
from tissuebench.methods.networks.initial_weights import initial_weights
from tissuebench.methods.networks.settings import Decoder, EncoderMode, NetworkSettings, Weights

PYRAMID_DECODERS = [Decoder.UNET, Decoder.FPN]
LITE0 = {"encoder": "tf_efficientnet_lite0", "weights": Weights.PACKAGE, "decoder_channels": 32}


def images(seed=0, size=64):
    return torch.randint(0, 256, (2, 3, size, size), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("decoder", PYRAMID_DECODERS)
@pytest.mark.parametrize("mode", [EncoderMode.FINETUNE, EncoderMode.FROZEN])
def test_cached_features_give_the_logits_of_the_images(decoder, mode):
    network = build_segmenter(NetworkSettings(**LITE0, decoder=decoder, encoder_mode=mode), 5).eval()
    with torch.inference_mode():
        features = network.encode(images())
        torch.testing.assert_close(network(features), network(images()))
        assert network(images()).shape == (2, 5, 64, 64)


def test_packaged_weights_are_imagenet_ones():
    """The maps equal those of timm's own model with the weights of the package."""
    import timm

    from tissuebench.methods.networks.packaged_weights import packaged_file

    reference = timm.create_model("tf_efficientnet_lite0", pretrained=False).eval()
    packaged = torch.load(packaged_file("tf_efficientnet_lite0"), weights_only=True)
    reference.load_state_dict(dict(zip(reference.state_dict(), packaged.values(), strict=True)))
    network = build_segmenter(NetworkSettings(**LITE0, decoder=Decoder.FPN), 3).eval()
    batch = images()
    with torch.inference_mode():
        deepest = network.encode(batch)[-1]
        expected = reference.blocks(reference.bn1(reference.conv_stem((batch.float() / 255 - 0.5) / 0.5)))
    torch.testing.assert_close(deepest, expected, rtol=1e-3, atol=1e-3)
    assert reference.classifier.weight.std() > 0.01


def test_packaged_weights_refuse_other_encoders():
    with pytest.raises(ConfigError, match="tf_efficientnet_lite0"):
        build_segmenter(NetworkSettings(encoder="resnet18", weights=Weights.PACKAGE), 3)


def test_an_unknown_encoder_is_one_line_with_the_nearest():
    with pytest.raises(ConfigError, match="did you mean 'resnet34'"):
        build_segmenter(NetworkSettings(encoder="resnet344", weights=Weights.NONE), 3)


def test_a_frozen_encoder_neither_learns_nor_counts():
    network = build_segmenter(NetworkSettings(**LITE0, decoder=Decoder.FPN, encoder_mode=EncoderMode.FROZEN), 3).train()
    before = {name: tensor.clone() for name, tensor in network.encoder.state_dict().items()}
    torch.autograd.backward(network(images()).sum())
    assert all(parameter.grad is None for parameter in network.encoder.parameters())
    assert any(parameter.grad is not None for parameter in network.decoder.parameters())
    for name, tensor in network.encoder.state_dict().items():
        assert torch.equal(tensor, before[name])


def test_frozen_and_random_is_refused():
    with pytest.raises(ValidationError, match="pretrained"):
        NetworkSettings(weights=Weights.NONE, encoder_mode=EncoderMode.FROZEN)


def test_narrow_decoders_do_not_normalise_single_channels():
    network = build_segmenter(NetworkSettings(**LITE0, decoder=Decoder.FPN), 3)
    groups = [module for module in network.decoder.modules() if isinstance(module, torch.nn.GroupNorm)]
    assert groups
    assert all(module.num_channels // module.num_groups >= 8 for module in groups)


def test_a_tile_wide_difference_survives_the_decoder():
    """With one channel a group, features shifted as a whole would give the same logits."""
    network = build_segmenter(NetworkSettings(**LITE0, decoder=Decoder.FPN), 3).eval()
    constant = tuple(torch.randn(1, c, s, s) for c, s in ((24, 16), (40, 8), (112, 4), (320, 2)))
    direction = tuple(torch.randn(1, feature.shape[1], 1, 1) for feature in constant)
    shifted = tuple(feature + 3 * d for feature, d in zip(constant, direction, strict=True))
    with torch.inference_mode():
        difference = (network(shifted) - network(constant)).mean(dim=(2, 3)).abs().max()
    assert difference > 1e-2


@pytest.mark.parametrize("decoder", PYRAMID_DECODERS)
@pytest.mark.parametrize("size", [56, 64, 70, 112])
def test_cached_features_of_tiles_of_any_size_give_logits_of_that_size(decoder, size):
    settings = NetworkSettings(**LITE0, decoder=decoder, encoder_mode=EncoderMode.FROZEN)
    network = build_segmenter(settings, 5, tile_px=size).eval()
    with torch.inference_mode():
        features = network.encode(images(size=size))
        assert network(features).shape == (2, 5, size, size)
        torch.testing.assert_close(network(features), network(images(size=size)))
        whole = network.decode(features)
        assert whole.shape[-1] == -(-size // 32) * 32
        assert torch.equal(build_segmenter(settings, 5).eval().encode(images(size=size))[0], features[0])
        larger = network(network.encode(images(size=3 * 64)))  # of no tile: nothing is cut off
        assert larger.shape == (2, 5, 192, 192)


def test_a_tile_is_padded_with_its_last_row_and_column():
    network = build_segmenter(NetworkSettings(**LITE0, decoder=Decoder.FPN), 3, tile_px=40).eval()
    batch = images(size=40)
    rows = torch.tensor([*range(40), *[39] * 24])
    with torch.inference_mode():
        for one, other in zip(network.encode(batch), network.encode(batch[:, :, rows][..., rows]), strict=True):
            assert torch.equal(one, other)


@pytest.mark.parametrize("decoder", PYRAMID_DECODERS)
@pytest.mark.parametrize(("encoder", "size"), [("tf_efficientnet_lite0", 64), ("resnet18", 56), ("convnext_atto", 64)])
def test_an_encoder_says_what_its_maps_are(decoder, encoder, size):
    network = build_encoder(NetworkSettings(encoder=encoder, weights=Weights.NONE, decoder=decoder)).eval()
    with torch.inference_mode():
        maps = network.encode(images(size=size))
    assert tuple(one.shape[1] for one in maps) == network.channels
    assert tuple(64 // one.shape[-1] for one in maps) == network.strides
    assert len(maps) == {Decoder.FPN: 4, Decoder.UNET: 5}[decoder]


@pytest.mark.parametrize("mode", [EncoderMode.FINETUNE, EncoderMode.FROZEN])
def test_an_encoder_alone_is_that_of_the_segmenter(mode):
    settings = NetworkSettings(**LITE0, decoder=Decoder.FPN, encoder_mode=mode)
    encoder, segmenter = build_encoder(settings), build_segmenter(settings, 3)
    assert isinstance(segmenter, ImageEncoder)
    encoder.load_state_dict({k: v for k, v in segmenter.state_dict().items() if k.startswith("encoder.")})
    assert encoder.train().encoder.training is segmenter.train().encoder.training is (mode is EncoderMode.FINETUNE)
    assert any(each.requires_grad for each in encoder.parameters()) is (mode is EncoderMode.FINETUNE)
    with torch.inference_mode():
        for one, other in zip(encoder.eval().encode(images()), segmenter.eval().encode(images()), strict=True):
            assert torch.equal(one, other)
    with pytest.raises(ConfigError, match="did you mean 'resnet34'"):
        build_encoder(NetworkSettings(encoder="resnet344", weights=Weights.NONE))


def test_first_weights_depend_on_the_seed_alone():
    """Results are stored under them: nothing may draw before or between, and no weight may be renamed."""
    torch.manual_seed(5)
    settings = NetworkSettings(encoder="resnet18", weights=Weights.NONE, decoder=Decoder.FPN, decoder_channels=32)
    network = build_segmenter(settings, 4, tile_px=56)
    after = torch.rand(3)
    torch.manual_seed(5)
    assert torch.equal(after, torch.rand(3))
    channels = {"decoder_pyramid_channels": 32, "decoder_segmentation_channels": 32}
    with initial_weights():
        model = smp.FPN("tu-resnet18", encoder_weights=None, classes=4, decoder_dropout=0.1, **channels)
    parts = {"encoder": model.encoder, "decoder": model.decoder, "head": model.segmentation_head}
    expected = {f"{part}.{name}": each for part in parts for name, each in parts[part].state_dict().items()}
    found = network.state_dict()
    assert list(found) == list(expected)
    assert all(torch.equal(found[name], expected[name]) for name in expected)
