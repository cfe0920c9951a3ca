"""The average over a grid as a product of matrices is torch's."""

import pytest
import torch

from tissuebench.methods.networks.averaging import averaged, averaged_by_product


@pytest.mark.parametrize(("side", "size"), [((8, 8), (8, 8)), ((16, 24), (8, 8)), ((9, 7), (4, 3)), ((5, 6), (8, 8))])
def test_the_product_is_the_average(side, size):
    maps = torch.randn(2, 3, *side, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    found = []
    for way in (averaged, averaged_by_product):
        pooled = way(maps, size)
        found.append((pooled, *torch.autograd.grad(pooled.square().sum(), maps)))
    torch.testing.assert_close(*found)
