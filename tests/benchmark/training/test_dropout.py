"""Dropout of the whole batch: torch's own where there is one process, refused where it cannot be shared."""

import pytest
import torch
from timm.layers import DropPath
from torch import distributed, nn

from tissuebench.errors import ConfigError
from tissuebench.training.dropout import SharedDropout


@pytest.fixture
def one_process():
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    yield
    distributed.destroy_process_group()


@pytest.mark.usefixtures("one_process")
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize(
    "layer", [nn.Dropout(0.3), nn.Dropout2d(0.3), DropPath(0.3), DropPath(0.3, False), nn.Dropout(1.0)]
)
def test_one_process_drops_what_torch_drops(layer, memory_format):
    x = torch.randn(6, 5, 4, 3).contiguous(memory_format=memory_format)
    torch.manual_seed(3)
    expected = layer.train()(x)
    shared, model = SharedDropout(), nn.Sequential(layer)
    shared.apply(model)
    torch.manual_seed(3)
    assert torch.equal(model(x), expected)
    assert torch.equal(model.eval()(x), x)
    shared.revert(model)
    assert "forward" not in vars(layer)


class Dropping(nn.Module):
    def __init__(self, rate):
        super().__init__()
        self.p = rate


@pytest.mark.parametrize(
    "layer", [Dropping(0.1), nn.AlphaDropout(0.1), nn.RReLU(), nn.MultiheadAttention(4, 2, dropout=0.1)]
)
def test_a_layer_that_draws_in_its_own_way_is_refused(layer):
    with pytest.raises(ConfigError, match=f"{type(layer).__name__} cannot share its draws between processes"):
        SharedDropout().apply(nn.Sequential(nn.Conv2d(3, 3, 1), layer))


def test_a_layer_that_drops_nothing_is_left_alone():
    model = nn.Sequential(Dropping(0.0), nn.Dropout(0.0), nn.MultiheadAttention(4, 2))
    assert not any("forward" in vars(layer) for layer in SharedDropout().apply(model).modules())
