"""Grad-CAM against golden maps of the published code, and what it promises."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from tissuebench.methods.pseudo_labels.grad_cam import enlarge, grad_cam
from tissuebench.methods.pseudo_labels.pseudo_masks import Scale, min_max

GOLDEN = Path(__file__).parents[2] / "golden"
TAPS = ("b4_5", "b5_2", "bn7")


class Tiny(nn.Module):
    """The network of the golden file."""

    def __init__(self):
        super().__init__()
        self.conv1a = nn.Conv2d(3, 4, 3, 2, 1, bias=False)
        self.b4_5 = nn.Conv2d(4, 5, 3, 2, 1, bias=False)
        self.b5_2 = nn.Conv2d(5, 6, 3, 1, 1, bias=False)
        self.bn7 = nn.BatchNorm2d(6)
        self.fc8 = nn.Conv2d(6, 4, 1, bias=False)

    def forward(self, x):
        b4_5 = self.b4_5(self.conv1a(x))
        b5_2 = self.b5_2(b4_5)
        bn7 = self.bn7(b5_2).relu()
        return (b4_5, b5_2, bn7), self.fc8(bn7.mean(dim=(2, 3), keepdim=True)).flatten(1)


@pytest.fixture
def arrays():
    with np.load(GOLDEN / "mlps_gradcam.npz", allow_pickle=False) as arrays:
        return {key: torch.from_numpy(arrays[key]) for key in arrays.files}


@pytest.fixture
def network(arrays):
    network = Tiny()
    network.bn7.eps = float(arrays["bn7_eps"])
    state = {key[4:].replace("__", "."): value for key, value in arrays.items() if key.startswith("sd__")}
    assert not network.load_state_dict(state, strict=False).unexpected_keys
    return network.eval()


def batch(n=3, size=32, seed=0):
    return torch.randn(n, 3, size, size, generator=torch.Generator().manual_seed(seed))


def close(actual, expected):
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-5)


def test_golden(arrays, network):
    taps, logits = network(arrays["img"])
    close(logits, arrays["logits"])
    for name, cams in zip(TAPS, grad_cam(taps, logits), strict=True):
        close(cams[0], arrays[f"{name}_cam_raw"])
        large = enlarge(cams, (32, 32))
        close(large[0], arrays[f"{name}_cam_resized"])
        close(min_max(large, Scale.JOINT)[0], arrays[f"{name}_cam_norm"])


def test_a_batch_is_its_samples(network):
    images = batch()
    together = grad_cam(*network(images))
    for sample in range(3):
        for all_of_them, alone in zip(together, grad_cam(*network(images[sample : sample + 1])), strict=True):
            torch.testing.assert_close(all_of_them[sample : sample + 1], alone)


def test_of_the_last_map_is_the_plain_cam_over_its_pixels(network):
    taps, logits = network(batch())
    (cams,) = grad_cam(taps[2:], logits)
    torch.testing.assert_close(cams, network.fc8(taps[2]).detach() / 64)


def test_maps_have_no_relu(network):
    assert all((cams < 0).any() for cams in grad_cam(*network(batch())))


def test_a_scaled_head_leaves_the_scaled_maps_as_they_are(network):
    before = [min_max(cams, Scale.JOINT) for cams in grad_cam(*network(batch()))]
    network.fc8.weight.data *= 4
    after = [min_max(cams, Scale.JOINT) for cams in grad_cam(*network(batch()))]
    for one, other in zip(before, after, strict=True):
        torch.testing.assert_close(one, other)


def test_parameters_keep_the_gradients_that_they_had(network):
    network.fc8.weight.grad = torch.ones_like(network.fc8.weight)
    grad_cam(*network(batch()))
    assert (network.fc8.weight.grad == 1).all()
    assert all(parameter.grad is None for name, parameter in network.named_parameters() if name != "fc8.weight")


def test_nothing_of_the_graph_stays(network):
    taps, logits = network(batch())
    found = grad_cam(taps, logits)
    assert all(cams.grad_fn is None and not cams.requires_grad for cams in found)
    with pytest.raises(RuntimeError, match="second time"):
        torch.autograd.grad(logits.sum(), taps[0])


def test_without_gradients_around_it(network):
    taps, logits = network(batch())
    with torch.no_grad():
        found = grad_cam(taps, logits)
    for one, other in zip(found, grad_cam(*network(batch())), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)


def test_narrow_and_wide_floats_give_float32(network):
    taps, logits = network(batch())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = grad_cam(taps, logits)
    for one, other in zip(inside, grad_cam(*network(batch())), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)
    for dtype in (torch.bfloat16, torch.float64):
        found = grad_cam(*network.to(dtype)(batch().to(dtype)))
        assert {cams.dtype for cams in found} == {torch.float32}
        assert [tuple(cams.shape) for cams in found] == [(3, 4, 8, 8)] * 3


def test_a_class_that_does_not_see_a_tap_has_no_map_there():
    images = batch(2, 8).requires_grad_()
    one, other = images * 2, images * 3
    logits = torch.stack([one.sum(dim=(1, 2, 3)), other.sum(dim=(1, 2, 3))], dim=1)
    of_one, of_other = grad_cam((one, other), logits)
    torch.testing.assert_close(of_one[:, 0], one.detach().sum(dim=1))
    torch.testing.assert_close(of_other[:, 1], other.detach().sum(dim=1))
    assert (of_one[:, 1] == 0).all() and (of_other[:, 0] == 0).all()


def test_a_tap_beside_the_way_to_the_logits_is_refused(network):
    (b4_5, _, bn7), logits = network(batch())
    with pytest.raises(ValueError, match="tap 1 is not part of the graph"):
        grad_cam((b4_5, bn7.clone()), logits)
    with pytest.raises(ValueError, match="tap 1 has no graph"):
        grad_cam((b4_5, bn7.detach()), logits)


def test_logits_made_without_gradients_are_refused(network):
    with torch.no_grad():
        taps, logits = network(batch())
    with pytest.raises(ValueError, match="logits has no graph: run the network with gradients"):
        grad_cam(taps, logits)


@pytest.mark.parametrize("wrong", ["taps", "logits", "samples", "none"])
def test_shapes_that_do_not_fit_are_refused(network, wrong):
    taps, logits = network(batch())
    wrongs = {
        "taps": ([taps[0].flatten(2)], logits),
        "logits": (taps, logits[:, :, None, None]),
        "samples": (taps, logits[:2]),
        "none": ([], logits),
    }
    with pytest.raises(ValueError, match="taps must be"):
        grad_cam(*wrongs[wrong])


def test_frozen_networks_need_images_with_gradients(network):
    network.requires_grad_(False)
    with pytest.raises(ValueError, match="images that require them"):
        grad_cam(*network(batch()))
    assert grad_cam(*network(batch().requires_grad_()))[0].shape == (3, 4, 8, 8)
