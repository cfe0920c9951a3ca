"""What a method logs: the values of the step, as in Lightning, under names of its own."""

from __future__ import annotations

import pytest
import torch
from torchmetrics import MeanMetric

from tissuebench.errors import ConfigError
from tissuebench.methods.api.contract import make_batch, make_method, training_loss


@pytest.fixture
def method():
    one = make_method("supervised")
    one.logs_step = True
    return one


def test_numbers_tensors_and_metrics_are_logged(method):
    mean = MeanMetric()
    mean.update(torch.tensor([1.0, 3.0]))
    method.log("loss/a", torch.tensor([0.5], requires_grad=True), prog_bar=True, on_step=True)
    method.log_dict({"b": 2, "c": mean}, sync_dist=True)

    assert {name: float(value) for name, value in method.logged.items()} == {"loss/a": 0.5, "b": 2.0, "c": 2.0}
    assert not method.logged["loss/a"].requires_grad


def test_a_value_that_changes_later_is_logged_as_it_was(method):
    value = torch.tensor(1.0)
    method.log("a", value)
    value += 1
    assert float(method.logged["a"]) == 1.0


@pytest.mark.parametrize("name", ["", "step", "train/loss", "val/miou", "selection/miou"])
def test_names_of_the_benchmark_are_refused(method, name):
    with pytest.raises(ConfigError, match=r"Supervised\.log"):
        method.log(name, 1.0)


@pytest.mark.parametrize("value", [torch.zeros(3), "0.5", None])
def test_only_single_numbers_are_logged(method, value):
    with pytest.raises(ConfigError, match=r"Supervised.log\('a', ...\): expected a"):
        method.log("a", value)


def test_nothing_is_logged_between_the_steps_that_are(method):
    method.logs_step = False
    method.log("a", torch.zeros(3))
    assert method.logged == {}


@pytest.mark.parametrize("name", ["complementary", "mean_teacher", "anatomical_contrast"])
def test_methods_log_the_terms_of_their_loss(name):
    method = make_method(name, settings={"ramp": 0.0} if name == "complementary" else {"warm_up": 0.0})
    method.logs_step = True
    loss = training_loss(method, make_batch(method))
    terms = {key: float(value) for key, value in method.logged.items() if key.startswith("loss/")}
    weights = {"loss/masks": 1.0, "loss/complementary": getattr(method.config, "weight", 0)}
    weights |= {key: getattr(method.config, key.removeprefix("loss/"), 0) for key in terms if key not in weights}
    assert len(terms) >= 2
    assert loss.item() == pytest.approx(sum(weights[key] * value for key, value in terms.items()), rel=1e-5)
