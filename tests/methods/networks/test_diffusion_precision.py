"""The noise predictor of GenSelfDiff-HIS: memory formats, numerical precision and memory use."""

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from tests.methods.networks.diffusion_unets import OPTIONS, T, images, relative_error, small
from tissuebench.methods.networks.diffusion_unet import Attention, LinearAttention


class Outputs(TorchDispatchMode):
    """Keeps the operator and every tensor that operators give, below autocast and autograd."""

    def __init__(self):
        super().__init__()
        self.kept = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        self.kept += [(func, leaf) for leaf in tree_leaves(out) if isinstance(leaf, torch.Tensor)]
        return out


@pytest.mark.parametrize("options", OPTIONS)
def test_channels_last_gives_the_same_and_stays_channels_last(options):
    network, x = small(**options), images(24, 16)
    expected = network(x, T)
    last = torch.channels_last
    network, x = network.to(memory_format=last), x.to(memory_format=last)
    torch.testing.assert_close(network(x, T), expected, rtol=1e-4, atol=1e-5)
    formats = {}
    for name, module in network.named_modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.GroupNorm):
            module.register_forward_hook(
                lambda m, i, o, name=name: formats.update({name: i[0].is_contiguous(memory_format=last)})
            )
    network(x, T)
    assert len(formats) > 50
    assert [name for name, kept in formats.items() if not kept] == []


@pytest.mark.parametrize("options", OPTIONS)
def test_bf16_autocast_is_within_a_few_percent(options):
    network, x = small(**options).to(memory_format=torch.channels_last), images(32, 24)
    with torch.no_grad():
        expected = network(x, T)
        with torch.autocast("cpu", torch.bfloat16):
            found = network(x.to(memory_format=torch.channels_last), T)
    assert found.dtype == torch.bfloat16
    assert relative_error(found, expected) < 0.04


def test_softmaxes_of_linear_attention_are_float32_below_autocast():
    torch.manual_seed(0)
    block, x = LinearAttention(8), torch.randn(1, 8, 6, 6)
    with torch.autocast("cpu", torch.bfloat16), Outputs() as outputs:
        block(x)
    types = [out.dtype for func, out in outputs.kept if func is torch.ops.aten._softmax.default]
    assert types == [torch.float32, torch.float32]


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_softmax_of_attention_is_float32_below_autocast(memory_format):
    """Scores of about 60 have steps of a quarter in bfloat16: a softmax of these would be wrong by tens of percent."""
    torch.manual_seed(0)
    block = Attention(128, heads=4, head_channels=32)
    with torch.no_grad():
        block.to_qkv.weight.mul_(8)
        block.to_out.weight.copy_(torch.eye(128)[:, :, None, None])
        block.to_out.bias.zero_()
    x = torch.randn(2, 128, 8, 8).to(memory_format=memory_format)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        found, qkv = block(x), block.to_qkv(x)
    q, k, v = qkv.double().reshape(2, 3, 4, 32, 64).unbind(1)
    scores = torch.einsum("bhdi,bhdj->bhij", q, k) / 32**0.5
    assert scores.abs().max() > 60
    expected = torch.einsum("bhij,bhdj->bhdi", scores.softmax(dim=3), v).reshape(2, 128, 8, 8).float()
    rounded = torch.einsum("bhij,bhdj->bhdi", scores.bfloat16().double().softmax(dim=3), v).reshape(2, 128, 8, 8)
    assert relative_error(found, expected) < 0.01 < relative_error(rounded, expected)


def test_linear_attention_needs_no_matrix_of_all_pairs_of_pixels():
    block, x = LinearAttention(8), torch.randn(1, 8, 48, 48, requires_grad=True)
    with Outputs() as outputs:
        block(x).sum().backward()
    assert x.grad is not None
    largest = max(out.numel() for _, out in outputs.kept)
    assert 3 * 4 * 32 * 48**2 <= largest < 48**4 / 4
