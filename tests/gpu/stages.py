"""Trials of every method that take a few steps on tiny tiles, on any device."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import yaml

from tests.benchmark.training.ddp_tasks import built
from tests.benchmark.training.stage_steps import steps_of_each_stage
from tests.benchmark.training.test_stage_steps import NETWORK, SHIPPED
from tests.benchmark.training.test_stage_steps import NOW as FROM_THE_FIRST_STEP
from tissuebench.plans.expand import PlannedData, expand
from tissuebench.plans.schema import load_plan
from tissuebench.runtime.processes import ALONE
from tissuebench.training.fit import fit

NOW = {**FROM_THE_FIRST_STEP, "queries": 16, "negatives": 32}
"""Settings, of methods that have them, with which every term counts at once, at little cost."""


@dataclass
class Lab:
    """Steps of trials on the tiny data."""

    data: PlannedData
    folder: Path
    _reference: ClassVar[dict] = {}

    def trial(self, name, steps, batch_size=4, network=NETWORK, **training):
        own = {
            "training": {"steps": steps, "batch_size": batch_size, **training}
        }  # of a recipe, which the plan does not train
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

    def steps(self, name, machine, steps):
        """Losses, first gradients and weights of every stage, by its name."""
        document = self.trial(name, steps).document()
        return steps_of_each_stage(document, False, self.data, self.new_folder(), ALONE, machine)

    def train(self, trial, machine, folder=None, change=lambda method: None, report=lambda step: None, **options):
        """Train the last stage of a trial and return it; ``change`` sees it before."""
        method, batches = built(trial, self.data)
        change(method)
        folder = folder or self.new_folder()
        folder.mkdir(exist_ok=True)
        fit(method, batches, folder, trial.seed, machine, report, **options)
        return method

    def new_folder(self):
        return self.folder / f"fit{len(list(self.folder.iterdir()))}"

    def reference(self, name, machine, steps):
        """The same on the CPU in float32, computed once for all tests."""
        if (name, steps) not in self._reference:
            self._reference[name, steps] = self.steps(name, machine, steps)
        return self._reference[name, steps]
