"""Stages of anatomical contrast: their settings, and the weights handed from one to the next."""

import pytest
import torch
from pydantic import ValidationError

from tests.methods.anatomical_phases import made, stage_made
from tests.methods.student_teacher import NETWORKS, PAPER, copied, same
from tissuebench.datasets.types import Supervision
from tissuebench.methods.anatomical_contrast import AnatomicalContrast
from tissuebench.methods.api.training_settings import TrainingSettings
from tissuebench.methods.contrastive.settings import GlobalSettings, LocalSettings
from tissuebench.methods.contrastive.stages import (
    GLOBAL,
    LOCAL,
    STUDENT,
    GlobalDistillation,
    LocalDistillation,
)

# Which stages there are.


@pytest.mark.parametrize("with_global", [True, False])
@pytest.mark.parametrize("with_local", [True, False])
def test_the_stages_are_those_that_are_wanted(with_global, with_local):
    training = TrainingSettings(steps=77, batch_size=3, learning_rate=0.5, weight_decay=0.25)
    own = {"decay": 0.5, "queue": 7, "color": 0.1, "window_share": 0.5, "global_weight": 0.25, "network": "paper"}
    wanted = {"global_distill": with_global, "local_distill": with_local}
    globally = {"steps": 11, "batch_size": 13}
    config = AnatomicalContrast.Config(**own, **wanted, global_training=globally, local_training={"steps": 17})
    found = {stage.name: stage for stage in AnatomicalContrast.stages(config, training)}
    assert list(found) == [GLOBAL] * with_global + [LOCAL] * with_local
    if with_global:
        stage = found[GLOBAL]
        assert (stage.module, stage.consumes, stage.needs, stage.annotates) == (GlobalDistillation, set(), (), None)
        assert not stage.depends_on_budget
        assert type(stage.config) is GlobalSettings
        assert dict(stage.config) == {name: getattr(config, name) for name in GlobalSettings.model_fields}
        assert stage.training == training.model_copy(update={"steps": 11, "batch_size": 13})
    if with_local:
        stage, needs = found[LOCAL], (GLOBAL,) * with_global
        assert (stage.module, stage.consumes, stage.needs) == (LocalDistillation, {Supervision.MASKS}, needs)
        assert stage.depends_on_budget
        assert type(stage.config) is LocalSettings
        assert dict(stage.config) == {name: getattr(config, name) for name in LocalSettings.model_fields}
        assert stage.training == training.model_copy(update={"steps": 17})


def test_a_stage_depends_on_what_it_learns_with_and_not_on_what_comes_after():
    training = TrainingSettings()

    def keys(**changed):
        stages = AnatomicalContrast.stages(AnatomicalContrast.Config(**changed), training)
        return [(stage.config, stage.training) for stage in stages]

    plain = keys()
    of_both = {"color": 0.1, "hue": 0.1, "blur": 0.0, "feature_dropout": 0.1, "network": "paper", "decay": 0.5}
    of_both |= {"decay_warm_up": False, "teacher_buffers": "own", "queue": 7}
    of_both |= {"student_temperature": 0.2, "teacher_temperature": 0.02}
    of_both |= {"color_probability": 0.5, "blur_probability": 0.5, "blur_from": 0.1, "jitter": "torchvision"}
    of_both |= {"distils_annotated": True, "views": "official", "teacher_heads": "trained"}
    assert of_both.keys() == GlobalSettings.model_fields.keys()
    for_both = {"distillation_color": 0.1, "distillation_hue": 0.1}
    for name, value in (of_both | for_both).items():
        changed = keys(**{name: value})
        assert changed[0] != plain[0] and changed[1] != plain[1], name
    of_local = {"supervised_loss": "cross_entropy_dice", "window_share": 0.5, "anchors": "all_windows"}
    of_local |= {"global_weight": 0.5, "local_weight": 0.5, "local_start": "networks"}
    assert of_local.keys() == LocalSettings.model_fields.keys() - GlobalSettings.model_fields.keys()
    for name, value in {**of_local, "local_training": {"steps": 9}}.items():
        changed = keys(**{name: value})
        assert changed[0] == plain[0] and changed[1] != plain[1], name
    for name in ("steps", "batch_size"):
        changed = keys(global_training={name: 9})
        assert changed[0] != plain[0] and changed[1] == plain[1], name
    later = {
        "strong": 0.5,
        "consistency": 0.5,
        "warm_up": 0.5,
        "cut_mix": False,
        "unlabelled_ratio": 2,
        "contrast": 0.0,
    }
    later |= {"weak": 0.5, "queries": 9, "negatives": 9, "temperature": 0.1, "representation": 9, "rep_stride": 8}
    later |= {"last_decay": 0.9, "eight_bit_confidence": True}
    for name, value in later.items():
        assert AnatomicalContrast.Config(**{name: value}) != AnatomicalContrast.Config()
        assert keys(**{name: value}) == plain, name
    stages = {"global_distill", "local_distill", "global_training", "local_training"}
    fields = of_both.keys() | for_both.keys() | of_local.keys() | later.keys() | stages
    assert AnatomicalContrast.Config.model_fields.keys() == fields


def test_the_papers_network_wants_images_in_every_phase():
    for kind, config in (
        (GlobalDistillation, GlobalSettings),
        (LocalDistillation, LocalSettings),
        (AnatomicalContrast, AnatomicalContrast.Config),
    ):
        assert kind.wants_images(config(**PAPER)) and not kind.wants_images(config())


# What is handed over.


def scrambled(stage, seed=5):
    """The state of a stage after training that left nothing as it was; the teacher is not the student."""
    torch.manual_seed(seed)
    state = copied(stage)
    changed = {
        name: torch.randn_like(value) if value.is_floating_point() else value + 7 for name, value in state.items()
    }
    return {name: value.abs() if "running_var" in name else value for name, value in changed.items()}


@NETWORKS
def test_the_second_phase_takes_over_all_of_the_first(network):
    given = scrambled(stage_made(seed=1, **network))
    stage = stage_made(LocalDistillation, **network)
    before = copied(stage)
    stage.inherit({GLOBAL: given})
    after = stage.state_dict()
    assert all(torch.equal(after[name], value) for name, value in given.items())
    parts = {name.removeprefix("teacher.module.").removeprefix("pupil.").split(".")[0] for name in given}
    assert parts == {"network", "global_head", "predictor", "queue", "teacher"}  # the last is its count of updates
    own = after.keys() - given.keys()
    assert all("local_head" in name or name.startswith("window_") for name in own)
    assert all(torch.equal(after[name], before[name]) for name in own)
    heads = [after[f"{whose}.local_head.proj.1.weight"] for whose in ("pupil", "teacher.module")]
    assert torch.equal(*heads)
    assert not stage.teacher.module.training and stage.training
    assert not any(parameter.requires_grad for parameter in stage.teacher.parameters())


@pytest.mark.parametrize("phases", [(GLOBAL,), (LOCAL,), (GLOBAL, LOCAL)])
@NETWORKS
def test_the_last_phase_begins_with_the_student_of_the_one_before(network, phases):
    kinds = {GLOBAL: GlobalDistillation, LOCAL: LocalDistillation}
    weights = {name: scrambled(stage_made(kinds[name], **network), seed) for seed, name in enumerate(phases)}
    method = made(decay_warm_up=False, **network)
    head = copied(method.representation)
    method.inherit(weights)
    taken = {f"{STUDENT}{name}": value for name, value in method.network.state_dict().items()}
    given = weights[phases[-1]]
    assert taken.keys() == {name for name in given if name.startswith(STUDENT)}
    assert all(torch.equal(value, given[name]) for name, value in taken.items())
    assert same(copied(method.teacher.module), copied(method.network))
    assert method.teacher.n_averaged == made(decay_warm_up=False, **network).teacher.n_averaged
    assert same(copied(method.representation), head)
    assert not method.teacher.module.training and method.network.training
    assert not any(parameter.requires_grad for parameter in method.teacher.parameters())


@pytest.mark.parametrize(("mine", "theirs"), [({}, PAPER), (PAPER, {})])
def test_weights_of_another_network_are_refused(mine, theirs):
    weights = {GLOBAL: copied(stage_made(**theirs))}
    for method in (made(**mine), stage_made(LocalDistillation, **mine)):
        with pytest.raises(ValueError, match="those of another network"):
            method.inherit(weights)


def test_weights_of_another_size_are_refused():
    stage = stage_made(**PAPER)
    other = {name: value[:1] if value.ndim > 1 else value for name, value in copied(stage).items()}
    for method in (made(**PAPER), stage_made(LocalDistillation, **PAPER)):
        with pytest.raises(ValueError, match="those of another network"):
            method.inherit({GLOBAL: other})


@pytest.mark.parametrize("share", [0, 0.501, 1])
def test_windows_that_leave_no_window_are_refused(share):
    with pytest.raises(ValidationError, match="window_share"):
        AnatomicalContrast.Config(window_share=share)
