"""The noise predictor of GenSelfDiff-HIS: initialisation and transfer of weights."""

import pytest
import torch
from torch import nn

from tests.methods.networks.diffusion_unets import small
from tissuebench.methods.networks.diffusion_unet import HEAD, published_initialisation, transfer


def test_published_initialisation():
    network = small(width=32, multipliers=(1, 2))
    before = {name: value.clone() for name, value in network.state_dict().items()}
    published_initialisation(network, torch.Generator().manual_seed(5))
    drawn, norms = [], 0
    for prefix, module in network.named_modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.GroupNorm):
            drawn.append(f"{prefix}.weight")
            norms += isinstance(module, nn.GroupNorm)
    after = network.state_dict()
    assert {name for name, value in after.items() if not torch.equal(value, before[name])} == set(drawn)
    assert norms > 20
    for kind in (nn.Conv2d, nn.ConvTranspose2d, nn.GroupNorm):
        parts = [module.weight.flatten() for module in network.modules() if isinstance(module, kind)]
        values = torch.cat(parts)
        assert values.std().item() == pytest.approx(0.01, rel=0.06)
        assert abs(values.mean().item()) < 4 * 0.01 / len(values) ** 0.5
    again = small(seed=9, width=32, multipliers=(1, 2))
    published_initialisation(again, torch.Generator().manual_seed(5))
    assert all(torch.equal(again.state_dict()[name], after[name]) for name in drawn)


def test_transfer_copies_all_but_the_head():
    source, target = small(seed=1), small(seed=2, out_channels=4, fullres_skip=True)
    before = {name: value.clone() for name, value in target.state_dict().items()}
    transfer(source.state_dict(), target)
    for name, value in target.state_dict().items():
        assert torch.equal(value, before[name] if name.startswith(HEAD) else source.state_dict()[name]), name
    weights = f"{HEAD}0.block2.proj.weight"
    assert not torch.equal(target.state_dict()[weights], source.state_dict()[weights])


def test_transfer_needs_no_head_in_the_source():
    source, target = small(seed=1), small(seed=2)
    transfer({name: value for name, value in source.state_dict().items() if not name.startswith(HEAD)}, target)
    assert torch.equal(target.init_conv.weight, source.init_conv.weight)


def without_stem_bias(state):
    return {name: value for name, value in state.items() if name != "init_conv.bias"}


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (without_stem_bias, r"missing: init_conv\.bias$"),
        (lambda state: {**state, "extra": torch.zeros(1)}, r"unexpected: extra$"),
        (lambda state: {f"net.{name}": value for name, value in state.items()}, r"missing: downs.*unexpected: net\."),
        (lambda state: small(patch=2).state_dict(), r"of another shape: init_conv\.weight$"),
        (lambda state: {}, r"missing: downs"),
    ],
)
def test_transfer_of_another_network_is_refused_and_nothing_copied(change, told):
    target = small(seed=2)
    before = {name: value.clone() for name, value in target.state_dict().items()}
    with pytest.raises(ValueError, match=told):
        transfer(change(small(seed=1).state_dict()), target)
    assert all(torch.equal(value, before[name]) for name, value in target.state_dict().items())
