"""Both ways to the likelihood of labelled pixels."""

import pytest
import torch

from tissuebench.datasets.types import IGNORE_LABEL
from tissuebench.methods.losses.pixel_nll import nll_of_rows, pixel_nll


@pytest.mark.parametrize("reduction", ["none", "sum"])
def test_rows_give_what_maps_give(reduction):
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 4, 5, 3, generator=generator, dtype=torch.float64).requires_grad_()
    labels = torch.randint(0, 4, (2, 5, 3), generator=generator).masked_fill(
        torch.rand(2, 5, 3, generator=generator) < 0.3, IGNORE_LABEL
    )
    found = []
    for way in (pixel_nll, nll_of_rows):
        loss = way(logits.log_softmax(dim=1), labels, reduction)
        found.append((loss, *torch.autograd.grad(loss.sum(), logits)))
    assert found[0][0].shape == ((2, 5, 3) if reduction == "none" else ())
    torch.testing.assert_close(*found)
    if reduction == "none":
        assert (found[0][0][labels == IGNORE_LABEL] == 0).all()
