"""The shared network: pretrained weights from a package, frozen encoders, features in place of images."""

from __future__ import annotations

import pytest
import torch
from pydantic import ValidationError

from tissuebench.errors import ConfigError
from tissuebench.methods.networks import build_segmenter
from tissuebench.methods.settings import Decoder, EncoderMode, NetworkSettings, Weights

LITE0 = {"encoder": "tf_efficientnet_lite0", "weights": Weights.PACKAGE, "decoder_channels": 32}


def images(seed=0, size=64):
    return torch.randint(0, 256, (2, 3, size, size), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("decoder", list(Decoder))
@pytest.mark.parametrize("mode", list(EncoderMode))
def test_cached_features_give_the_logits_of_the_images(decoder, mode):
    network = build_segmenter(NetworkSettings(**LITE0, decoder=decoder, encoder_mode=mode), 5).eval()
    with torch.inference_mode():
        features = network.encode(images())
        torch.testing.assert_close(network(features), network(images()))
        assert network(images()).shape == (2, 5, 64, 64)


def test_packaged_weights_are_imagenet_ones():
    """The maps equal those of timm's own model with the weights of the package."""
    import timm

    from tissuebench.methods.networks.weights import packaged_weights

    reference = timm.create_model("tf_efficientnet_lite0", pretrained=False).eval()
    reference.load_state_dict(packaged_weights("tf_efficientnet_lite0", list(reference.state_dict())))
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
