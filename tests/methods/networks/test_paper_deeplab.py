"""The segmenter of the paper: its wiring beside the official code's, how it is fed, and what it can start from."""

import numpy as np
import pytest
import timm
import torch
from torch import nn
from torch.nn import functional

from tissuebench.errors import ConfigError
from tissuebench.methods.networks.paper_deeplab import DeepLabWeights, PaperSegmenter

LAST = "decoder.last_conv.8."


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return PaperSegmenter(5).eval()


@pytest.fixture(scope="module")
def checkpoint(network, tmp_path_factory):
    """The network as a checkpoint of the official trainer: 21 classes, an optimiser and a best score beside it."""
    state = dict(network.state_dict())
    state |= {f"{LAST}weight": torch.ones(21, 256, 1, 1), f"{LAST}bias": torch.ones(21)}
    path = tmp_path_factory.mktemp("published") / "deeplab-resnet.pth.tar"
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1).state_dict()
    document = {"epoch": 50, "state_dict": state, "optimizer": optimizer, "best_pred": np.float64(0.78)}
    torch.save(document, path, _use_new_zipfile_serialization=False)  # as before PyTorch 1.6
    return path


def images(height, width, n=1):
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (n, 3, height, width), generator=generator, dtype=torch.uint8)


def official(state, x):
    """The forward pass of the official code in evaluation mode, from tensors under its names."""

    def conv(name, x, stride=1, rate=1):
        weight = state[f"{name}.weight"]
        return functional.conv2d(x, weight, None, stride, rate * (weight.shape[-1] // 2), rate)

    def norm(name, x):
        return functional.batch_norm(
            x, *(state[f"{name}.{key}"] for key in ("running_mean", "running_var", "weight", "bias"))
        )

    def resized(x, like):
        return functional.interpolate(x, size=like.shape[2:], mode="bilinear", align_corners=True)

    def stage(name, x, n, stride, rates):
        for i in range(n):
            unit, step = f"{name}.{i}", stride if i == 0 else 1
            out = norm(f"{unit}.bn1", conv(f"{unit}.conv1", x)).relu()
            out = norm(f"{unit}.bn2", conv(f"{unit}.conv2", out, step, rates[i])).relu()
            out = norm(f"{unit}.bn3", conv(f"{unit}.conv3", out))
            shortcut = norm(f"{unit}.downsample.1", conv(f"{unit}.downsample.0", x, step)) if i == 0 else x
            x = (out + shortcut).relu()
        return x

    size = x
    x = norm("backbone.bn1", conv("backbone.conv1", x, 2)).relu()
    fine = stage("backbone.layer1", functional.max_pool2d(x, 3, 2, 1), 3, 1, [1] * 3)
    x = stage("backbone.layer3", stage("backbone.layer2", fine, 4, 2, [1] * 4), 23, 2, [1] * 23)
    x = stage("backbone.layer4", x, 3, 1, [2, 4, 8])
    parts = [
        norm(f"aspp.aspp{i}.bn", conv(f"aspp.aspp{i}.atrous_conv", x, rate=rate)).relu()
        for i, rate in ((1, 1), (2, 6), (3, 12), (4, 18))
    ]
    pooled = norm("aspp.global_avg_pool.2", conv("aspp.global_avg_pool.1", x.mean(dim=(2, 3), keepdim=True))).relu()
    x = norm("aspp.bn1", conv("aspp.conv1", torch.cat([*parts, resized(pooled, x)], 1))).relu()
    fine = norm("decoder.bn1", conv("decoder.conv1", fine)).relu()
    x = torch.cat([resized(x, fine), fine], 1)
    for i in (0, 4):
        x = norm(f"decoder.last_conv.{i + 1}", conv(f"decoder.last_conv.{i}", x)).relu()
    return resized(conv(LAST[:-1], x) + state[f"{LAST}bias"][:, None, None], size)


@pytest.mark.parametrize("size", [(48, 64), (37, 50)])
@torch.inference_mode()
def test_it_computes_what_the_official_code_does(network, size):
    """Images in 0..1, without mean and standard deviation."""
    pixels = images(*size)
    for norm in network.modules():  # statistics of its own, so that no norm can be taken for another
        if isinstance(norm, nn.BatchNorm2d):
            norm.running_mean.normal_(0, 0.1)
            norm.bias.normal_(0, 0.1)
    expected = official(network.state_dict(), pixels.float() / 255)
    for fed in (pixels, pixels.float() / 255):
        found = network(fed)
        assert found.shape == (1, 5, *size)
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3 * float(expected.abs().max()))


def test_names_and_sizes_are_the_published_ones(network):
    state = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    published = {
        "backbone.conv1.weight": (64, 3, 7, 7),
        "backbone.layer1.0.downsample.0.weight": (256, 64, 1, 1),
        "backbone.layer3.22.conv3.weight": (1024, 256, 1, 1),
        "backbone.layer4.2.bn3.running_var": (2048,),
        "aspp.aspp1.atrous_conv.weight": (256, 2048, 1, 1),
        "aspp.aspp4.atrous_conv.weight": (256, 2048, 3, 3),
        "aspp.global_avg_pool.1.weight": (256, 2048, 1, 1),
        "aspp.conv1.weight": (256, 1280, 1, 1),
        "decoder.conv1.weight": (48, 256, 1, 1),
        "decoder.last_conv.0.weight": (256, 304, 3, 3),
        "decoder.last_conv.4.weight": (256, 256, 3, 3),
        f"{LAST}weight": (5, 256, 1, 1),
        f"{LAST}bias": (5,),
    }
    assert published.items() <= state.items()
    assert len(state) == 680
    assert sum(one.numel() for one in network.parameters()) == 59_344_309 - 16 * 257  # of 21 classes
    dropouts = [(name, module.p) for name, module in network.named_modules() if isinstance(module, nn.Dropout)]
    assert dropouts == [("aspp.dropout", 0.5), ("decoder.last_conv.3", 0.5), ("decoder.last_conv.7", 0.1)]


def test_random_weights_are_drawn_as_in_the_official_code(network):
    """He et al.: over the outputs in the backbone, over the inputs elsewhere; norms start at 1."""
    fresh = PaperSegmenter(5)
    for name, module in fresh.named_modules():
        if isinstance(module, nn.BatchNorm2d):
            assert bool((module.weight == 1).all()) and bool((module.bias == 0).all()), name
        elif isinstance(module, nn.Conv2d) and module.weight.numel() > 10_000:
            fan = module.weight[0].numel() if not name.startswith("backbone") else module.weight[:, 0].numel()
            assert module.weight.detach().std().item() == pytest.approx((2 / fan) ** 0.5, rel=0.05), name


@torch.inference_mode()
def test_a_tile_does_not_depend_on_its_neighbours(network):
    pixels = images(32, 32, 3)
    expected = network(pixels[1:2])
    torch.testing.assert_close(network(pixels)[1:2], expected, rtol=0, atol=1e-4 * float(expected.abs().max()))


def test_a_checkpoint_replaces_all_but_the_last_layer(network, checkpoint):
    file = DeepLabWeights.model_validate(str(checkpoint))
    torch.manual_seed(7)
    loaded = PaperSegmenter(5, is_pretrained=True, file=file).state_dict()  # nothing is downloaded beside it
    for name, tensor in network.state_dict().items():
        if not name.endswith("num_batches_tracked"):
            assert torch.equal(loaded[name], tensor) is not name.startswith(LAST), name


def test_a_checkpoint_of_another_network_is_refused_before_it_is_loaded(network, tmp_path):
    state = network.state_dict()
    path = tmp_path / "other.pth"
    for changed, said in (
        (
            {**state, "aspp.extra.weight": torch.ones(1)},
            r"holds, unknown to the network, 1 tensors \(aspp.extra.weight\)",
        ),
        (
            {name: one for name, one in state.items() if name != "backbone.bn1.bias"},
            r"lacks 1 tensors \(backbone.bn1.bias\)",
        ),
        ({**state, "aspp.bn1.bias": torch.ones(3)}, r"aspp.bn1.bias is 3 float32, the network's is 256 float32"),
    ):
        torch.save({"state_dict": changed}, path)
        with pytest.raises(ConfigError, match=said) as caught:
            DeepLabWeights.read(path)
        assert "\n" not in str(caught.value) and str(path) in str(caught.value)


@pytest.mark.parametrize("error", [OSError("no route\nto host"), RuntimeError("checksum\nis wrong")])
def test_weights_that_cannot_be_loaded_are_told_in_one_line(monkeypatch, error):
    asked = []

    def unreachable(name, pretrained, **_):
        asked.append((name, pretrained))
        raise error

    monkeypatch.setattr(timm, "create_model", unreachable)
    with pytest.raises(ConfigError, match=r"ResNet-101 .*set network.weights to 'none'") as caught:
        PaperSegmenter(5, is_pretrained=True)
    assert "\n" not in str(caught.value)
    assert str(error).splitlines()[0] in str(caught.value)
    assert asked == [("resnet101.tv_in1k", True)]
