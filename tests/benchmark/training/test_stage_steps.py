"""One step of every stage of every method on 1, 2 and 3 processes over gloo: the same step.

Whatever is drawn, mixed, contrasted, dropped and averaged is that of the whole batch. Networks in float64 show it: the
parameters after the step, and the gradients, agree to 1e-6 of their norm, although losses are evaluated in float32
(measured: 1e-14 with two processes, 3e-8 with three, by which float32 cannot be divided). In float32, gradients differ
between numbers of processes by what rounding alone makes of one process: its distance to float64, 2e-6 to 1e-5 of the
norm, and 2e-3 where a class is pooled over a tile's highest scores, as rounding decides between equal ones.
"""

from __future__ import annotations

import json

import pytest
import torch
import yaml

from tests.benchmark.training.stage_steps import LAST
from tests.processes import start_script
from tissuebench.methods.api import all_methods
from tissuebench.methods.multilayer_pseudo import FILL
from tissuebench.plans.expand import PlannedData, expand
from tissuebench.plans.schema import load_plan

SHIPPED = {name: kind for name, kind in all_methods().items() if kind.__module__.startswith("tissuebench.")}
NETWORK = {
    "encoder": "test_resnet",
    "weights": "none",
    "encoder_mode": "finetune",
    "decoder": "fpn",
    "decoder_channels": 32,
    "dropout": 0.25,
}
NOW = {"strong": 0.3, "weak": 0.3, "ramp": 0, "attention": None, "width": 8, "classifier_width": 8}
"""Settings, of methods that have them, with which every term counts from the first step on: an untrained teacher is sure
enough, and attention leaves something of deepest maps of a single pixel."""
QUICK = ("complementary", "mean_teacher", "anatomical_contrast", "multilayer_pseudo", "diffusion")
BATCH, UNEVEN = 6, 5


class Lab:
    """Steps of methods, each number of processes in a folder of its own."""

    def __init__(self, tiny_data, folder):
        self.folder, self.home = folder, tiny_data.home
        self.data = PlannedData(tiny_data.store, tiny_data.split)

    def documents(self, names, batch_size):
        for name in names:
            own = {"training": {"steps": 1, "batch_size": batch_size}}  # of a recipe, which the plan does not train
            fields = SHIPPED[name].Config.model_fields
            settings = {key: value for key, value in {**NOW, **own}.items() if key in fields}
            document = {
                "budgets": ["minutes:60" if "tags" in SHIPPED[name].consumes else "masks:3p"],
                "seeds": [0],
                "network": NETWORK,
                "training": {"steps": 1, "batch_size": batch_size},
                "methods": {name: settings},
            }
            path = self.folder / "plan.yaml"
            path.write_text(yaml.safe_dump(document))
            trials = expand(load_plan(str(path)), [name], self.data, self.folder)
            yield next(trial for trial in trials if trial.method == name).document()

    def steps(self, size, names, batch_size, double):
        folder = self.folder / f"{size}-{batch_size}-{double}-{len(names)}"
        folder.mkdir()
        asked = {"trials": list(self.documents(names, batch_size)), "double": double}
        (folder / "trials.json").write_text(json.dumps(asked))
        where = self.home / "data" / "tiny"
        start_script("tests.benchmark.training.stage_steps", str(where), str(folder), str(size))
        ranks = [torch.load(folder / f"rank{rank}.pt", weights_only=True) for rank in range(size)]
        return [dict(zip(names, done, strict=True)) for done in ranks]


@pytest.fixture
def lab(tiny_data, tmp_path):
    return Lab(tiny_data, tmp_path)


def apart(one, other):
    """Norm of the difference of two named lists of tensors over that of the second."""
    assert one.keys() == other.keys()
    difference = sum(float((one[name].double() - other[name].double()).square().sum()) for name in other)
    return (difference / max(sum(float(value.double().square().sum()) for value in other.values()), 1e-300)) ** 0.5


def compare(alone, together):
    """Assert that one step of all stages is the same."""
    (expected,), (found, *others) = alone, together
    assert expected.keys() == found.keys()
    for name, stages in expected.items():
        assert stages.keys() == found[name].keys()
        assert LAST in stages
        for stage, step in stages.items():
            mine, where = found[name][stage], f"{name}, {stage}"
            for other in others:
                assert other[name][stage]["digest"] == mine["digest"], where
            trained = step["gradients"].keys()
            parameters = [{key: each["state"][key] for key in trained} for each in (mine, step)]
            of = {"gradients": apart(mine["gradients"], step["gradients"]), "parameters": apart(*parameters)}
            print(
                where, f"{step['loss']:.6f} {mine['loss'] - step['loss']:+.0e}", {k: f"{v:.0e}" for k, v in of.items()}
            )
            assert mine["loss"] == pytest.approx(step["loss"], rel=1e-6, abs=1e-7), where
            assert of["gradients"] < 1e-6, where
            assert of["parameters"] < 1e-6, where
            assert (stage == FILL) != any(each.any() for each in step["gradients"].values()), where


def test_two_processes_take_the_step_of_one_with_a_batch_that_they_cannot_halve(lab):
    alone, together = (lab.steps(size, QUICK, UNEVEN, double=True) for size in (1, 2))
    compare(alone, together)


@pytest.mark.slow
def test_every_stage_of_every_method_takes_the_same_step_on_one_two_and_three_processes(lab):
    alone = lab.steps(1, tuple(SHIPPED), BATCH, double=True)
    for size in (2, 3):
        compare(alone, lab.steps(size, tuple(SHIPPED), BATCH, double=True))


@pytest.mark.slow
def test_in_float32_several_processes_differ_by_rounding_alone(lab):
    (exact,), (alone,) = (lab.steps(1, tuple(SHIPPED), BATCH, double) for double in (True, False))
    for size in (2, 3):
        together = lab.steps(size, tuple(SHIPPED), BATCH, double=False)[0]
        for name, stages in alone.items():
            for stage, step in stages.items():
                rounding = apart(step["gradients"], exact[name][stage]["gradients"])
                found = apart(together[name][stage]["gradients"], step["gradients"])
                print(size, name, stage, f"{found:.0e} between processes, {rounding:.0e} by rounding")
                assert found <= 2 * rounding + 1e-7, (size, name, stage)
                assert together[name][stage]["loss"] == pytest.approx(step["loss"], rel=1e-6, abs=1e-7)
