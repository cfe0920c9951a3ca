"""The noise predictor of GenSelfDiff-HIS: golden arrays of the official code, time steps, skips, features and sizes."""

import ast
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from tests.methods.networks.diffusion_unets import OPTIONS, T, images, relative_error, small
from tissuebench.methods.networks.diffusion_unet import (
    HEAD,
    Attention,
    DiffusionUNet,
    LinearAttention,
    ResnetBlock,
    sinusoidal_embedding,
)

GOLDEN = Path(__file__).parents[2] / "golden"


def golden(name):
    with np.load(GOLDEN / f"diffusion_{name}.npz", allow_pickle=False) as arrays:
        return {key: arrays[key] for key in arrays.files}


def tensors(arrays, prefix):
    return {key.removeprefix(prefix): torch.from_numpy(arrays[key]) for key in arrays if key.startswith(prefix)}


# Golden arrays


@pytest.mark.parametrize(
    ("prefix", "make", "timed"),
    [
        ("la", lambda: LinearAttention(8, heads=2, head_channels=4), False),
        ("attn", lambda: Attention(8, heads=2, head_channels=4), False),
        ("res", lambda: ResnetBlock(8, 16, time_features=12), True),
    ],
)
def test_golden_blocks(prefix, make, timed):
    arrays = golden("blocks")
    block = make()
    block.load_state_dict(tensors(arrays, f"{prefix}::"))
    x, time = torch.from_numpy(arrays["x"]), torch.from_numpy(arrays["temb"])
    expected = torch.from_numpy(arrays[f"{prefix}_out"])
    torch.testing.assert_close(block(x, time) if timed else block(x), expected, rtol=1e-4, atol=1e-5)
    if timed:
        torch.testing.assert_close(block(x), torch.from_numpy(arrays["res_out_no_temb"]), rtol=1e-4, atol=1e-5)


def test_golden_network():
    arrays = golden("tiny_unet")
    network = DiffusionUNet(width=8, multipliers=(1, 2))
    assert list(network.state_dict()) == arrays["param_order"].tolist()
    network.load_state_dict(tensors(arrays, "param::"))
    out = network(torch.from_numpy(arrays["x"]), torch.from_numpy(arrays["t"]))
    torch.testing.assert_close(out, torch.from_numpy(arrays["y"]), rtol=1e-4, atol=1e-5)


def test_golden_names_shapes_and_counts_of_the_published_size():
    arrays = golden("unet_shapes")
    expected = {
        name.removeprefix("net."): ast.literal_eval(shape)
        for name, shape in zip(arrays["names"].tolist(), arrays["shapes"].tolist(), strict=True)
    }
    with torch.device("meta"):
        network, segmenter = DiffusionUNet(), DiffusionUNet(out_channels=4)
    state = {name: tuple(value.shape) for name, value in network.state_dict().items()}
    assert list(state) == list(expected) and state == expected
    counts = [sum(value.numel() for value in each.parameters()) for each in (network, segmenter)]
    assert counts == [arrays["n_params_diffusion"], arrays["n_params_seg4"]]
    assert {name for name, value in segmenter.state_dict().items() if tuple(value.shape) != state[name]} == {
        f"{HEAD}1.weight",
        f"{HEAD}1.bias",
    }
    transferred = sum(value.numel() for name, value in network.named_parameters() if not name.startswith(HEAD))
    assert transferred == arrays["n_params_transferred"] == 31_192_776


@pytest.mark.parametrize(("options", "least", "most"), [({}, 37e9, 39e9), ({"patch": 2}, 9e9, 12e9)])
def test_cost_at_128_pixels(options, least, most):
    with torch.device("meta"):
        network, x, t = DiffusionUNet(**options), torch.empty(1, 3, 128, 128), torch.zeros(1)
    with FlopCounterMode(display=False) as counter:
        network(x, t)
    assert least < counter.get_total_flops() < most


# Time


def test_embedding_is_sines_then_cosines():
    t = torch.tensor([0, 1, 37, 999])
    found = sinusoidal_embedding(t, 64)
    assert found.dtype == torch.float32 and found.shape == (4, 64)
    assert torch.equal(found[0], torch.tensor([0.0] * 32 + [1.0] * 32))
    for j in (0, 1, 16, 31):
        frequency = 10_000 ** (-j / 31)
        for row, step in enumerate(t.tolist()):
            assert found[row, j].item() == pytest.approx(math.sin(step * frequency), abs=2e-4)
            assert found[row, 32 + j].item() == pytest.approx(math.cos(step * frequency), abs=2e-4)
    assert torch.equal(sinusoidal_embedding(t.double(), 64), found)


@pytest.mark.parametrize("size", [0, 2, 7])
def test_sizes_of_embeddings_that_cannot_be_are_refused(size):
    with pytest.raises(ValueError, match="size"):
        sinusoidal_embedding(T, size)


def test_output_depends_on_the_time_of_each_image():
    network, x = small(), images()
    out = network(x, T)
    assert torch.equal(network(x, T.float()), out)
    other = network(x, torch.tensor([3, 200]))
    torch.testing.assert_close(other[0], out[0])
    assert relative_error(other[1], out[1]) > 1e-3


def test_a_block_without_time_refuses_one():
    block = ResnetBlock(8, 8)
    with pytest.raises(ValueError, match="without a time input"):
        block(torch.zeros(1, 8, 4, 4), torch.zeros(1, 12))


# Skips and maps


def shift_skip(network, level):
    """Change what the decoder gets from a level of the encoder, and not what the next level of the encoder gets."""
    true = {}

    def shift(module, inputs, output):
        true["map"] = output
        return output + 1

    _, _, attention, resample = network.downs[level]
    attention.register_forward_hook(shift)
    resample.register_forward_pre_hook(lambda module, inputs: (true["map"],))


@pytest.mark.parametrize("fullres_skip", [False, True])
@pytest.mark.parametrize("level", range(4))
def test_all_skips_are_used_but_the_finest(level, fullres_skip):
    network, x = small(multipliers=(1, 1, 1, 2), fullres_skip=fullres_skip), images()
    before = network(x, T)
    shift_skip(network, level)
    after = network(x, T)
    if level == 0 and not fullres_skip:
        assert torch.equal(after, before)
    else:
        assert relative_error(after, before) > 1e-3


@pytest.mark.parametrize(("fullres_skip", "expected"), [(False, 3), (True, 4)])
def test_the_published_decoder_joins_three_skips(monkeypatch, fullres_skip, expected):
    joined, join = [], torch.cat
    network = small(multipliers=(1, 1, 1, 2), fullres_skip=fullres_skip)
    monkeypatch.setattr(torch, "cat", lambda parts, dim=0: joined.append(parts[0].ndim) or join(parts, dim))
    network(images(), T)
    assert joined.count(4) == expected


@pytest.mark.parametrize("options", OPTIONS)
def test_features_are_those_of_the_decoder_and_the_last_goes_into_the_head(options):
    network, x = small(**options), images(24, 16)
    kept = {}
    names = ["mid_block2", "ups.0.2", "ups.1.2", "ups.1.3", "final_conv"]
    for name in names:
        network.get_submodule(name).register_forward_hook(lambda m, i, o, name=name: kept.update({name: o}))
    out = network(x, T)
    expected = [kept[name] for name in names]
    head = expected.pop()
    maps = network.features(x, T)
    assert tuple(map_.shape[1] for map_ in maps) == network.feature_channels
    assert tuple((24 // map_.shape[2], 16 // map_.shape[3]) for map_ in maps) == tuple(
        (stride, stride) for stride in network.feature_strides
    )
    torch.testing.assert_close(maps[-1][:, :16], expected[-1])
    torch.testing.assert_close(maps[:-1], tuple(expected[:-1]))
    torch.testing.assert_close(network.final_conv(maps[-1]), head)
    torch.testing.assert_close(functional.pixel_shuffle(head, network.patch), out)


def test_published_features():
    with torch.device("meta"):
        network = DiffusionUNet()
        maps = network.features(torch.empty(1, 3, 64, 32), torch.zeros(1))
    assert network.feature_channels == (512, 256, 128, 64, 64) == tuple(map_.shape[1] for map_ in maps)
    assert network.feature_strides == (8, 8, 4, 2, 1) == tuple(64 // map_.shape[2] for map_ in maps)
    with torch.device("meta"):
        network = DiffusionUNet(patch=2, fullres_skip=True)
    assert network.feature_channels == (512, 256, 128, 64, 128)
    assert network.feature_strides == (16, 16, 8, 4, 2)


# Sizes


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize(("height", "width"), [(1, 1), (7, 8), (15, 17), (16, 31), (3, 40)])
def test_any_size_is_padded_with_its_border_and_cropped(height, width, options):
    network = small(**options)
    step = 4 * network.patch
    x = images(height, width)
    rows = torch.arange(-(-height // step) * step).clamp(max=height - 1)
    columns = torch.arange(-(-width // step) * step).clamp(max=width - 1)
    out = network(x, T)
    assert out.shape == (2, options.get("out_channels", 3), height, width)
    torch.testing.assert_close(out, network(x[:, :, rows][..., columns], T)[..., :height, :width])


def test_patches_are_channels_inside():
    network, x = small(patch=2, out_channels=5), images()
    assert network.init_conv.in_channels == 12 and network.final_conv[1].out_channels == 20
    assert network.init_conv.out_channels == small().init_conv.out_channels == 10
    seen = []
    network.init_conv.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    network(x, T)
    assert torch.equal(seen[0][:, 0:4, 2, 3], x[:, 0, 4:6, 6:8].flatten(1))


def test_a_tile_does_not_depend_on_its_neighbours():
    network, x = small().train(), images(n=3)
    t = torch.tensor([3, 700, 50])
    together = network(x, t)
    torch.testing.assert_close(network(x[1:2], t[1:2])[0], together[1], rtol=1e-4, atol=1e-5)
    others = torch.stack((100 * x[0], x[1], torch.zeros_like(x[2])))
    torch.testing.assert_close(network(others, torch.tensor([9, 700, 0]))[1], together[1], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("options", OPTIONS)
def test_gradient_reaches_every_parameter(options):
    network = small(**options).train()
    (network(images(), T) ** 2).sum().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().max() > 1e-6, name


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"width": 0}, "width"),
        ({"width": 12}, "width"),
        ({"multipliers": (1,)}, "multipliers"),
        ({"multipliers": (1, 0)}, "multipliers"),
        ({"out_channels": 0}, "out_channels"),
        ({"patch": 0}, "patch"),
    ],
)
def test_networks_that_cannot_be_are_refused(options, told):
    with pytest.raises(ValueError, match=told):
        DiffusionUNet(**options)
