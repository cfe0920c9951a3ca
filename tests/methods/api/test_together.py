"""One forward pass for several streams: the same logits as one each, unless layers relate the samples of a batch."""

import torch
from torch import nn

from tissuebench.datasets.types import TileBatch
from tissuebench.methods.api.together import forward_together


class Counting(nn.Module):
    """Counts its calls."""

    def __init__(self, layer):
        super().__init__()
        self.layer, self.calls = layer, 0

    def forward(self, inputs):
        self.calls += 1
        return self.layer(inputs if isinstance(inputs, torch.Tensor) else inputs[0] + inputs[1])


def streams():
    generator = torch.Generator().manual_seed(0)
    return [TileBatch(step=0, images=torch.rand(n, 3, 8, 8, generator=generator)) for n in (2, 3)]


def test_one_call_gives_the_logits_of_each_stream():
    network = Counting(nn.Conv2d(3, 4, 3, padding=1))
    together = forward_together(network, *streams())
    assert network.calls == 1
    for logits, tiles in zip(together, streams(), strict=True):
        torch.testing.assert_close(logits, network(tiles.images))


def test_cached_features_are_joined_map_by_map():
    features = [TileBatch(step=0, features=(tiles.images, 2 * tiles.images)) for tiles in streams()]
    network = Counting(nn.Conv2d(3, 4, 1))
    together = forward_together(network, *features)
    assert network.calls == 1
    assert [len(logits) for logits in together] == [2, 3]
    torch.testing.assert_close(together[1], network(features[1].features))


def test_batch_statistics_are_those_of_each_stream():
    network = Counting(nn.BatchNorm2d(3))
    together = forward_together(network, *streams())
    assert network.calls == 2
    torch.testing.assert_close(together[0].mean(), torch.zeros(()), atol=1e-5, rtol=0)
    network.eval()
    forward_together(network, *streams())
    assert network.calls == 3
