"""Trials of every method that take a few steps on tiny tiles, on any device."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import yaml

from tests.benchmark.training.stage_steps import steps_of_each_stage
from tests.gpu.draws import DrawsOnTheCpu
from tissuebench.methods.api import all_methods
from tissuebench.plans.expand import PlannedData, expand
from tissuebench.plans.schema import load_plan
from tissuebench.runtime.processes import ALONE

SHIPPED = {name: kind for name, kind in all_methods().items() if kind.__module__.startswith("tissuebench.")}
NETWORK = {
    "encoder": "test_resnet",
    "weights": "none",
    "encoder_mode": "finetune",
    "decoder": "fpn",
    "decoder_channels": 32,
    "dropout": 0.25,
}
NOW = {
    "strong": 0.3, "weak": 0.3, "ramp": 0, "attention": None, "width": 8, "classifier_width": 8, "queries": 16,
    "negatives": 32,
}  # fmt: skip
"""Settings, of methods that have them, with which every term counts at once, at little cost."""


@dataclass
class Lab:
    """Steps of trials on the tiny data."""

    data: PlannedData
    folder: Path
    _reference: ClassVar[dict] = {}

    def trial(self, name, steps, batch_size=4, network=NETWORK, **training):
        own = {"training": {"steps": steps, "batch_size": batch_size, **training}}  # of a recipe, which the plan does not train
        fields = SHIPPED[name].Config.model_fields
        document = {
            "budgets": ["minutes:60" if "tags" in SHIPPED[name].consumes else "masks:3p"],
            "seeds": [0],
            "network": network,
            **own,
            "methods": {name: {key: value for key, value in {**NOW, **own}.items() if key in fields}},
        }
        path = self.folder / "plan.yaml"
        path.write_text(yaml.safe_dump(document))
        trials = expand(load_plan(str(path)), [name], self.data, self.folder)
        return next(trial for trial in trials if trial.method == name)

    def steps(self, name, machine, steps, **training):
        """Losses, first gradients and weights of every stage, by its name; random numbers are those of the CPU."""
        folder = self.folder / f"{machine.device.type}-{machine.precision}-{len(list(self.folder.iterdir()))}"
        with DrawsOnTheCpu():
            document = self.trial(name, steps, **training).document()
            return steps_of_each_stage(document, False, self.data, folder, ALONE, machine)

    def reference(self, name, machine, steps):
        """The same on the CPU in float32, computed once for all tests."""
        if (name, steps) not in self._reference:
            self._reference[name, steps] = self.steps(name, machine, steps)
        return self._reference[name, steps]
