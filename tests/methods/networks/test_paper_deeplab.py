"""The segmenter of the paper: its stride, how it is fed, and what is said where its weights cannot be had."""

import pytest
import segmentation_models_pytorch as smp
import torch
from torch import nn
from torch.nn import functional

from tissuebench.errors import ConfigError
from tissuebench.methods.networks.paper_deeplab import PaperSegmenter
from tissuebench.methods.networks.settings import Weights


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return PaperSegmenter(Weights.NONE, 5).eval()


def images(height, width, n=1):
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (n, 3, height, width), generator=generator, dtype=torch.uint8)


@pytest.mark.parametrize("size", [(32, 48), (37, 50), (5, 16)])
@torch.inference_mode()
def test_logits_are_as_large_as_the_images(network, size):
    assert network(images(*size)).shape == (1, 5, *size)


@torch.inference_mode()
def test_images_are_fed_in_0_to_1_and_continued_beyond_their_edge(network):
    pixels, fed = images(20, 33, 2), []
    hook = network.model.register_forward_pre_hook(lambda module, inputs: fed.append(inputs[0]))
    from_bytes, from_floats = network(pixels), network(pixels.float() / 255)
    hook.remove()
    assert torch.equal(from_bytes, from_floats)
    assert torch.equal(fed[0], fed[1])
    assert torch.equal(fed[0][..., :20, :33], pixels.float() / 255)  # no mean, no standard deviation
    assert tuple(fed[0].shape[-2:]) == (32, 48)
    assert torch.equal(fed[0], functional.pad(fed[0][..., :20, :33], (0, 15, 0, 12), mode="replicate"))


@torch.inference_mode()
def test_it_is_deeplab_on_a_resnet_101_of_stride_16(network):
    maps = network.model.encoder(torch.rand(1, 3, 32, 32))
    assert [tuple(one.shape[1:]) for one in maps[2:]] == [(256, 8, 8), (512, 4, 4), (1024, 2, 2), (2048, 2, 2)]
    dilated = [module for module in network.model.encoder.layer4.modules() if isinstance(module, nn.Conv2d)]
    assert {module.dilation for module in dilated if module.kernel_size == (3, 3)} == {(2, 2)}
    assert len(network.model.encoder.layer3) == 23


@torch.inference_mode()
def test_a_tile_does_not_depend_on_its_neighbours(network):
    pixels = images(32, 32, 3)
    torch.testing.assert_close(network(pixels)[1:2], network(pixels[1:2]), rtol=1e-4, atol=1e-5)


def test_a_package_has_no_such_weights():
    with pytest.raises(ConfigError, match=r"'package' has no ResNet-101 .*'timm' or 'none'") as caught:
        PaperSegmenter(Weights.PACKAGE, 5)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("error", [OSError("no route\nto host"), RuntimeError("checksum\nis wrong")])
def test_weights_that_cannot_be_loaded_are_told_in_one_line(monkeypatch, error):
    asked = []

    def unreachable(name, encoder_weights, classes):
        asked.append((name, encoder_weights, classes))
        raise error

    monkeypatch.setattr(smp, "DeepLabV3Plus", unreachable)
    with pytest.raises(ConfigError, match=r"ResNet-101 .*set network.weights to 'none'") as caught:
        PaperSegmenter(Weights.TIMM, 5)
    assert "\n" not in str(caught.value)
    assert str(error).splitlines()[0] in str(caught.value)
    assert asked == [("resnet101", "imagenet", 5)]
