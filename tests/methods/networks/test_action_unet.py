"""The U-Net of ACTION: names and shapes of the official code, its maps, its borders, the head of its pixels."""

import ast
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

from tests.properties import examples
from tissuebench.methods.networks.action_unet import ActionUNet, RepresentationHead, stacked

GOLDEN = Path(__file__).parents[2] / "golden"
SMALL = (4, 6, 8, 10, 12)


def small(seed=0, **options):
    torch.manual_seed(seed)
    return ActionUNet(**{"n_classes": 3, "channels": SMALL, **options}).eval()


def images(height=32, width=48, n=2, seed=1):
    return torch.rand(n, 3, height, width, generator=torch.Generator().manual_seed(seed))


def test_golden_names_shapes_and_count():
    with np.load(GOLDEN / "action_unet_shapes.npz", allow_pickle=False) as arrays:
        names, shapes, count = (arrays[key].tolist() for key in ("names", "shapes", "n_params_rgb4"))
    with torch.device("meta"):
        network = ActionUNet(n_classes=4)
    found = {name: tuple(value.shape) for name, value in network.state_dict().items()}
    assert list(found) == names
    assert list(found.values()) == [ast.literal_eval(shape) for shape in shapes]
    assert sum(value.numel() for value in network.parameters()) == count == 1_814_052


def test_maps_of_the_published_size():
    with torch.device("meta"):
        maps = ActionUNet(n_classes=4)(torch.empty(2, 3, 256, 128))
    assert maps.logits.shape == (2, 4, 256, 128)
    assert [tuple(each.shape[1:]) for each in maps.decoder] == [
        (256, 16, 8),
        (128, 32, 16),
        (64, 64, 32),
        (32, 128, 64),
        (16, 256, 128),
    ]


def convolved(state, name, x, padding):
    return functional.conv2d(x, state[f"{name}.weight"], state[f"{name}.bias"], padding=padding)


def block(state, name, x):
    """Evaluation mode: dropout does nothing."""
    for conv, norm in ((0, 1), (4, 5)):
        x = convolved(state, f"{name}.conv_conv.{conv}", x, 1)
        mean, variance, gain, shift = (
            state[f"{name}.conv_conv.{norm}.{key}"][:, None, None]
            for key in ("running_mean", "running_var", "weight", "bias")
        )
        x = (x - mean) / (variance + 1e-5).sqrt() * gain + shift
        x = torch.where(x > 0, x, 0.01 * x)
    return x


def test_is_what_the_official_code_computes():
    """Written out from the names of the tensors; batch norms are given statistics and gains of their own."""
    network, x = small().double(), images(n=1).double()
    generator = torch.Generator().manual_seed(3)
    state = network.state_dict()
    for value in state.values():
        if value.ndim == 1:
            value.copy_(torch.rand(value.shape, generator=generator, dtype=torch.float64) + 0.5)
    maps = network(x)
    skips = [block(state, "encoder.in_conv", x)]
    for level in range(1, 5):
        skips.append(block(state, f"encoder.down{level}.maxpool_conv.1", functional.max_pool2d(skips[-1], 2)))
    out, expected = skips.pop(), []
    deepest = out
    for level in range(1, 5):
        expected.append(out)
        out = convolved(state, f"decoder.up{level}.conv1x1", out, 0)
        out = functional.interpolate(out, scale_factor=2, mode="bilinear", align_corners=True)
        out = block(state, f"decoder.up{level}.conv", torch.cat((skips.pop(), out), dim=1))
    expected.append(out)
    torch.testing.assert_close(maps.deepest, deepest)
    torch.testing.assert_close(maps.decoder, tuple(expected))
    torch.testing.assert_close(maps.logits, convolved(state, "decoder.out_conv", out, 1))


def test_deepest_map_needs_no_decoder():
    network, x = small(), images(37, 20)
    maps = network(x)
    assert torch.equal(network.deepest(x), maps.deepest) and torch.equal(maps.decoder[0], maps.deepest)
    network.deepest(x).sum().backward()
    assert all(parameter.grad is None for parameter in network.decoder.parameters())
    assert all(parameter.grad is not None for parameter in network.encoder.parameters())


def test_dropout_is_that_of_the_encoder():
    rates = [module.p for module in ActionUNet(n_classes=2).modules() if isinstance(module, nn.Dropout)]
    assert rates == [0.05, 0.1, 0.2, 0.3, 0.5, 0, 0, 0, 0]


@pytest.mark.parametrize(("height", "width"), [(1, 1), (15, 17), (16, 31), (40, 3)])
def test_any_size_is_padded_with_its_border_and_cropped(height, width):
    network, x = small(), images(height, width)
    rows = torch.arange(-(-height // 16) * 16).clamp(max=height - 1)
    columns = torch.arange(-(-width // 16) * 16).clamp(max=width - 1)
    larger = network(x[:, :, rows][..., columns])
    found = network(x)
    assert found.logits.shape == (2, 3, height, width)
    torch.testing.assert_close(found.logits, larger.logits[..., :height, :width])
    torch.testing.assert_close(found.decoder, larger.decoder)


def test_gradient_reaches_every_parameter():
    network = small().train()
    network(images()).logits.square().sum().backward()
    for name, parameter in network.named_parameters():
        # A bias before a batch norm is taken away again with the mean.
        if not name.endswith(("conv_conv.0.bias", "conv_conv.4.bias")):
            assert parameter.grad is not None and parameter.grad.abs().max() > 1e-6, name


def test_channels_last_gives_the_same_and_stays_channels_last():
    network, x = small(), images()
    expected = network(x).logits
    network = network.to(memory_format=torch.channels_last)
    maps = network(x.contiguous(memory_format=torch.channels_last))
    torch.testing.assert_close(maps.logits, expected, rtol=1e-4, atol=1e-5)
    assert all(each.is_contiguous(memory_format=torch.channels_last) for each in maps.decoder)


def test_other_than_five_levels_are_refused():
    for options in ({"channels": (4, 8)}, {"dropout": (0.1,)}):
        with pytest.raises(ValueError, match="5 levels"):
            small(**options)


# Stacked maps


def test_stacked_maps_of_the_published_network():
    with torch.device("meta"):
        maps = ActionUNet(n_classes=4)(torch.empty(1, 3, 64, 32)).decoder
        assert stacked(maps, (64, 32)).shape == (1, 496, 64, 32)
        assert stacked(maps, (16, 8)).shape == (1, 496, 16, 8)


def test_stacking_aligns_corners_and_keeps_the_finest():
    maps = small()(images()).decoder
    together = stacked(maps, (32, 48)).split(SMALL[::-1], dim=1)
    assert torch.equal(together[-1], maps[-1])
    for found, each in zip(together, maps, strict=True):
        for corner in ((0, 0), (0, -1), (-1, 0), (-1, -1)):
            torch.testing.assert_close(found[:, :, corner[0], corner[1]], each[:, :, corner[0], corner[1]])


# Head of pixels


def test_published_size_of_the_head():
    with torch.device("meta"):
        head = RepresentationHead()
        assert head(torch.empty(1, 496, 8, 8)).shape == (1, 512, 8, 8)
    assert {name: tuple(value.shape) for name, value in head.state_dict().items()} == {
        "proj.0.weight": (512, 496, 3, 3),
        "proj.1.weight": (512, 512, 1, 1),
        "proj.1.bias": (512,),
    }
    assert sum(value.numel() for value in head.parameters()) == 2_548_224


def head_and_maps(shape, memory_format=torch.contiguous_format, seed=0):
    torch.manual_seed(seed)
    head, maps = RepresentationHead(shape[1], 7).double(), torch.randn(shape, dtype=torch.float64)
    return head, maps.contiguous(memory_format=memory_format).requires_grad_()


def test_head_is_affine():
    head, maps = head_and_maps((1, 5, 4, 4))
    zero, other = head(torch.zeros_like(maps)), torch.randn_like(maps)
    torch.testing.assert_close(head(maps - 3 * other) - zero, head(maps) - 3 * head(other) + 2 * zero)


@examples(40)
@given(
    st.tuples(st.integers(1, 3), st.integers(1, 5), st.integers(1, 5), st.integers(1, 5)),
    st.integers(0, 2**31),
    st.integers(0, 30),
    st.sampled_from([torch.contiguous_format, torch.channels_last]),
)
def test_some_pixels_are_as_of_the_whole_map(shape, seed, count, memory_format):
    head, maps = head_and_maps(shape, memory_format, seed)
    index = torch.randint(0, shape[0] * shape[2] * shape[3], (count,))
    inputs = [maps, *head.parameters()]
    dense = head(maps).movedim(1, -1).flatten(0, 2)[index]
    found = head.at(maps, index)
    assert found.shape == (count, 7)
    torch.testing.assert_close(found, dense, rtol=1e-11, atol=1e-12)
    weights = torch.randn(count, 7, dtype=torch.float64)
    gradients = [torch.autograd.grad((each * weights).sum(), inputs) for each in (found, dense)]
    torch.testing.assert_close(*gradients, rtol=1e-11, atol=1e-12)


def test_some_pixels_see_their_neighbours_only():
    head, maps = head_and_maps((2, 3, 6, 7))
    (gradient,) = torch.autograd.grad(head.at(maps, torch.tensor([42 + 2 * 7 + 6])).sum(), maps)
    touched = torch.zeros(2, 6, 7, dtype=torch.bool)
    touched[1, 1:4, 5:7] = True
    assert torch.equal(gradient.abs().sum(dim=1) > 0, touched)


def test_some_pixels_below_autocast():
    head, maps = head_and_maps((2, 16, 6, 7))
    head, maps, index = head.float(), maps.detach().float(), torch.arange(84)
    with torch.autocast("cpu", torch.bfloat16):
        found, dense = head.at(maps, index), head(maps).movedim(1, -1).flatten(0, 2)
    assert found.dtype == dense.dtype == torch.bfloat16
    assert (found - dense).norm() < 0.01 * dense.norm()


def test_any_float_images_below_autocast_are_finite():
    network = small()
    with torch.autocast("cpu", torch.bfloat16):
        maps = network(1e4 * images())
    assert all(torch.isfinite(each).all() for each in (maps.logits, *maps.decoder))
