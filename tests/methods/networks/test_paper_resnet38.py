"""ResNet-38: the published sizes, what is frozen, and where the maps are taken."""

import pytest
import torch
from torch import nn

from tissuebench.methods.networks.paper_resnet38 import BottleneckUnit, ResNet38, WideUnit

STEM = ("conv1a.", "b2.", "b2_1.", "b2_2.")


def small(**options):
    torch.manual_seed(0)
    return ResNet38(width=4, **options)


def images(size=32, n=2):
    return torch.rand(n, 3, size, size, generator=torch.Generator().manual_seed(1))


def norms(network):
    return [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]


def test_published_sizes():
    with torch.device("meta"):
        network = ResNet38()
        maps = network(torch.empty(2, 3, 224, 224))
    assert [tuple(map_.shape) for map_ in maps] == [(2, 512, 28, 28), (2, 1024, 28, 28), (2, 4096, 28, 28)]
    convolutions = [module for module in network.modules() if isinstance(module, nn.Conv2d)]
    assert len(convolutions) == 43
    assert all(convolution.bias is None for convolution in convolutions)
    assert len(norms(network)) == 37
    assert sum(parameter.numel() for parameter in network.parameters()) == 105_070_912
    frozen = sum(parameter.numel() for parameter in network.parameters() if not parameter.requires_grad)
    assert frozen == sum(2 * norm.num_features for norm in norms(network)) + 64 * 27 + 128 * (64 * 9 + 64 + 128 * 45)


def test_layers_have_the_names_of_the_published_weights():
    with torch.device("meta"):
        state = {key: tuple(value.shape) for key, value in ResNet38().state_dict().items()}
    published = {
        "conv1a.weight": (64, 3, 3, 3),
        "b2.conv_branch1.weight": (128, 64, 1, 1),
        "b4_5.conv_branch2b1.weight": (512, 512, 3, 3),
        "b5.conv_branch2a.weight": (512, 512, 3, 3),
        "b5_2.conv_branch2b1.weight": (1024, 512, 3, 3),
        "b6.conv_branch2a.weight": (512, 1024, 1, 1),
        "b7.conv_branch2b1.weight": (2048, 1024, 3, 3),
        "b7.conv_branch2b2.weight": (4096, 2048, 1, 1),
        "b7.bn_branch2b2.running_var": (2048,),
        "bn7.bias": (4096,),
    }
    assert published.items() <= state.items()
    assert len(state) == 43 + 37 * 5
    assert "b5_1.conv_branch1.weight" not in state


def test_dilation_takes_the_place_of_stride():
    found = {
        name: (module.stride[0], module.dilation[0])
        for name, module in small().named_modules()
        if isinstance(module, nn.Conv2d) and (module.stride[0] > 1 or module.dilation[0] > 1)
    }
    strided = {f"{unit}.{part}": (2, 1) for unit in ("b2", "b3", "b4") for part in ("conv_branch2a", "conv_branch1")}
    dilated = {f"b5_{i}.{part}": (1, 2) for i in (1, 2) for part in ("conv_branch2a", "conv_branch2b1")}
    assert found == {
        **strided,
        **dilated,
        "b5.conv_branch2b1": (1, 2),  # its first one is not dilated
        "b6.conv_branch2b1": (1, 4),
        "b7.conv_branch2b1": (1, 4),
    }


@pytest.mark.parametrize("size", [32, 40, 37])
def test_all_maps_have_stride_eight(size):
    side = -(-size // 8)
    with torch.inference_mode():
        shapes = [tuple(map_.shape) for map_ in small()(images(size))]
    assert shapes == [(2, 32, side, side), (2, 64, side, side), (2, 256, side, side)]


def test_maps_are_plain_sums_and_the_last_is_after_its_relu():
    network = small().eval()
    kept = {}
    for name in ("b4_5", "b5_2", "bn7"):
        network.get_submodule(name).register_forward_hook(lambda m, i, o, name=name: kept.update({name: o.clone()}))
    b4_5, b5_2, bn7 = network(images())
    assert torch.equal(b4_5, kept["b4_5"]) and (b4_5 < 0).any()
    assert torch.equal(b5_2, kept["b5_2"]) and (b5_2 < 0).any()
    assert torch.equal(bn7, kept["bn7"].relu()) and (kept["bn7"] < 0).any()


def test_a_unit_is_norm_relu_convolution_twice_beside_its_shortcut():
    torch.manual_seed(2)
    x = torch.randn(2, 4, 9, 9)
    for unit in (WideUnit(4, 6, 4), WideUnit(4, 6, 8, stride=2), WideUnit(4, 6, 8, dilation=2, first_dilation=1)):
        randomise(unit)
        before = x.clone()
        active = unit.bn_branch2a(x).relu()
        residual = unit.conv_branch2b1(unit.bn_branch2b1(unit.conv_branch2a(active)).relu())
        shortcut = x if unit.conv_branch1 is None else unit.conv_branch1(active)
        torch.testing.assert_close(unit(x), shortcut + residual)
        assert torch.equal(x, before)


def test_a_bottleneck_is_three_convolutions_beside_its_shortcut():
    torch.manual_seed(3)
    x = torch.randn(2, 8, 9, 9)
    unit = BottleneckUnit(8, 16, dilation=4, dropout=0.5)
    randomise(unit)
    active = unit.bn_branch2a(x).relu()
    residual = unit.conv_branch2b1(unit.bn_branch2b1(unit.conv_branch2a(active)).relu())
    residual = unit.conv_branch2b2(unit.bn_branch2b2(residual).relu())
    torch.testing.assert_close(unit(x), unit.conv_branch1(active) + residual)
    assert not torch.allclose(unit.train()(x), unit(x))  # dropout draws anew


def randomise(unit):
    for norm in norms(unit.eval()):
        norm.weight.data.uniform_(0.5, 2)
        norm.bias.data.normal_()
        norm.running_mean.normal_()
        norm.running_var.uniform_(0.5, 2)


def test_frozen_parts_get_no_gradient_and_the_others_do():
    network = small().train()
    torch.autograd.backward(sum(map_.sum() for map_ in network(images())))
    for name, parameter in network.named_parameters():
        is_norm = "bn" in name
        assert (parameter.grad is None) == (is_norm or name.startswith(STEM)), name
    assert sum(parameter.grad is not None for parameter in network.parameters()) == 43 - 1 - 7


def test_frozen_norms_stay_as_they_are_in_training():
    network = small()
    assert not any(norm.training for norm in norms(network))
    assert not any(norm.training for norm in norms(network.train()))
    assert network.training and network.b7.dropout.training and network.b7.dropout.p == 0.5
    assert network.b6.dropout.p == 0.3
    before = {name: value.clone() for name, value in network.named_buffers()}
    network(images())
    assert all(torch.equal(value, before[name]) for name, value in network.named_buffers())
    assert not network.eval().b7.dropout.training


def test_frozen_norms_stay_so_once_they_are_synchronised():
    """On several GPUs, whose layers are another class."""
    network = nn.SyncBatchNorm.convert_sync_batchnorm(small()).train()
    found = [module for module in network.modules() if isinstance(module, nn.SyncBatchNorm)]
    assert len(found) == 37
    assert not any(norm.training or norm.weight.requires_grad for norm in found)


def test_nothing_is_frozen_that_is_not_asked_for():
    network = small(freeze_norm=False, freeze_stem=False).train()
    assert all(parameter.requires_grad for parameter in network.parameters())
    assert all(norm.training for norm in norms(network))
    network(images())
    assert all(norm.num_batches_tracked == 1 for norm in norms(network))
    stem_only = small(freeze_norm=False).train()
    frozen = {name.split(".")[0] for name, value in stem_only.named_parameters() if not value.requires_grad}
    assert frozen == {"conv1a", "b2", "b2_1", "b2_2"}
    norms_only = small(freeze_stem=False)
    assert all(("bn" in name) != value.requires_grad for name, value in norms_only.named_parameters())


@pytest.mark.parametrize("width", [0, 3, -2])
def test_widths_that_cannot_be_are_refused(width):
    with pytest.raises(ValueError, match="width"):
        ResNet38(width=width)
