"""The control of ``anatomical_contrast``: as many annotated steps and rate cycles, without distillation and contrast."""

from dataclasses import replace

import pytest
import torch

from tissuebench.methods.anatomical_contrast import AnatomicalContrast
from tissuebench.methods.api import TrainingSettings
from tissuebench.methods.api.contract import annotated_steps, make_task
from tissuebench.methods.mean_teacher import MASKS_ALONE, RestartedMeanTeacher
from tissuebench.plans.expand import with_controls
from tissuebench.plans.schema import load_plan, plan_names

OURS, CONTROL = AnatomicalContrast.name, RestartedMeanTeacher.name


@pytest.mark.parametrize("name", plan_names())
def test_it_stands_beside_the_method_and_takes_as_many_annotated_steps_in_every_plan(name):
    plan, task = load_plan(name), make_task()
    assert CONTROL in with_controls([OURS])
    made = [
        kind(replace(task, training=plan.training), kind.Config.model_validate(kind.planned_settings(plan.methods)))
        for kind in (AnatomicalContrast, RestartedMeanTeacher)
    ]
    assert annotated_steps(made[0]) == annotated_steps(made[1]) > plan.training.steps
    shared = made[0].config.model_dump().keys() & made[1].config.model_dump().keys()
    assert {key: getattr(made[0].config, key) for key in shared} == {
        key: getattr(made[1].config, key) for key in shared
    }


def test_it_follows_the_steps_of_the_phase_that_it_replaces():
    def follows(**settings):
        return RestartedMeanTeacher.planned_settings({OURS: settings})

    assert RestartedMeanTeacher.Config().masks_training == AnatomicalContrast.Config().local_training == {"steps": 300}
    assert follows() == {}
    assert follows(local_training={"steps": 7}) == {"masks_training": {"steps": 7}}
    assert follows(local_distill=False) == {"masks_first": False}
    plan = {OURS: {"local_training": {"steps": 7}, "decay": 0.9, "queries": 3}, CONTROL: {"decay": 0.8}}
    assert RestartedMeanTeacher.planned_settings(plan) == {"decay": 0.8, "masks_training": {"steps": 7}}
    (stage,) = RestartedMeanTeacher.stages(
        RestartedMeanTeacher.Config(**follows(local_training={"steps": 7})), TrainingSettings()
    )
    assert stage.training.steps == 7
    assert RestartedMeanTeacher.stages(RestartedMeanTeacher.Config(masks_first=False), TrainingSettings()) == ()


@pytest.mark.parametrize("network", ["matched", "paper"])
def test_student_and_teacher_start_from_what_the_masks_taught(network):
    config = RestartedMeanTeacher.Config(network=network)
    (stage,) = RestartedMeanTeacher.stages(config, TrainingSettings(steps=20))
    torch.manual_seed(1)
    first = stage.module(make_task(), stage.config)
    torch.manual_seed(2)
    method = RestartedMeanTeacher(make_task(), config)
    method.inherit({MASKS_ALONE: first.state_dict()})
    for name, value in first.network.state_dict().items():
        assert torch.equal(value, method.network.state_dict()[name])
        assert torch.equal(value, method.teacher.module.state_dict()[name])
