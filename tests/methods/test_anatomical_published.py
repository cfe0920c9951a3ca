"""The published anatomical contrast: its settings, its phases, and the identity of options."""

from dataclasses import replace
from types import SimpleNamespace

import torch

from tests.methods.anatomical_phases import K, annotated, unlabelled
from tests.methods.student_teacher import copied, loss_of, same
from tissuebench.methods.anatomical_contrast import AnatomicalContrast, PublishedAnatomicalContrast
from tissuebench.methods.api.contract import make_batch, make_task
from tissuebench.methods.api.method import ANNOTATED
from tissuebench.methods.api.training_settings import TrainingSettings
from tissuebench.methods.contrastive.stages import (
    LOCAL,
    STUDENT,
    TISSUE,
    GlobalDistillation,
    LocalDistillation,
)
from tissuebench.methods.mean_teacher import UNLABELLED
from tissuebench.plans.trial import identity_of_settings, variant_name

SGD = {
    "steps": 30_000,
    "optimizer": "sgd",
    "learning_rate": 0.01,
    "momentum": 0.9,
    "weight_decay": 1e-4,
    "rate_schedule": "polynomial",
    "gradient_clip": None,
}


def test_every_published_setting_is_the_official_codes():
    """Those of ``train_2D.sh``, of the defaults of the arguments, and of ``model.py`` and ``augment.py``."""
    config = PublishedAnatomicalContrast.Config()
    assert config.model_dump(mode="json") == {
        "network": "paper",
        "decay": 0.99,
        "decay_warm_up": False,
        "last_decay": 0.9801,
        "teacher_buffers": "own",
        "teacher_heads": "trained",
        "views": "official",
        "color": 0.25,
        "hue": 0.25,
        "distillation_color": 0.2,
        "distillation_hue": 0.1,
        "jitter": "torchvision",
        "color_probability": 0.5,
        "blur": 1.15,
        "blur_from": 0.15,
        "blur_probability": 0.5,
        "feature_dropout": 0.5,
        "global_distill": True,
        "local_distill": True,
        "distils_annotated": True,
        "queue": 36,
        "student_temperature": 0.1,
        "teacher_temperature": 0.01,
        "local_start": "networks",
        "window_share": 0.25,
        "anchors": "official",
        "global_weight": 1.0,
        "local_weight": 1.0,
        "supervised_loss": "cross_entropy_dice",
        "warm_up": 0.0,
        "strong": 0.97,
        "weak": 0.7,
        "eight_bit_confidence": True,
        "consistency": 1.0,
        "cut_mix": True,
        "unlabelled_ratio": 1,
        "contrast": 0.01,
        "queries": 256,
        "negatives": 512,
        "temperature": 0.5,
        "representation": 512,
        "rep_stride": 1,
        "global_training": {**SGD, "batch_size": 6, "sampling": "shuffled"},
        "local_training": {**SGD, "batch_size": 3, "sampling": "shuffled"},
        "training": {**SGD, "batch_size": 4, "sampling": "uniform", "nesterov": True},
        "augmentation": {"orientations": "none", "color": 0, "hue": 0, "scale": 0, "blur": 0, "stain": 0},
    }


def test_windows_of_the_published_tile_are_36():
    task = replace(make_task(), tile_px=256)
    (_, stage) = PublishedAnatomicalContrast.stages(PublishedAnatomicalContrast.Config(), task.training)
    module = stage.module(task, stage.config)
    assert module.window == 64 and module.window_queue.keys.shape == (36, 36, 64 * K)


def test_the_published_method_goes_through_all_phases():
    small = {"representation": 8, "queries": 8, "negatives": 8, "queue": 6}
    config = PublishedAnatomicalContrast.Config(**small)
    weights, task = {}, make_task()
    for stage in PublishedAnatomicalContrast.stages(config, task.training):
        torch.manual_seed(0)
        module = stage.module(replace(task, training=stage.training), stage.config).train()
        if stage.needs:
            module.inherit({name: weights[name] for name in stage.needs})
        optimizer = module.configure_optimizers()["optimizer"]
        for _ in range(2):
            optimizer.zero_grad()
            loss = loss_of(module, {ANNOTATED: annotated(), TISSUE: unlabelled()})
            assert torch.isfinite(loss)
            loss.backward()
            optimizer.step()
            module.teacher.update_parameters(module.student)
        weights[stage.name] = copied(module)
    torch.manual_seed(0)
    method = PublishedAnatomicalContrast(task, config)
    method.inherit(weights)
    method.train()
    student = {name.removeprefix(STUDENT): value for name, value in weights[LOCAL].items() if name.startswith(STUDENT)}
    assert same(copied(method.network), student) and same(copied(method.teacher.module), student)
    method._trainer = SimpleNamespace(global_step=0)
    loss = loss_of(method, {ANNOTATED: annotated(), UNLABELLED: unlabelled(2)})
    loss.backward()
    assert torch.isfinite(loss)
    assert all(parameter.grad is not None for parameter in method.representation.parameters())
    assert make_batch(method)[UNLABELLED].images.shape[0] == task.training.batch_size


# Identity.


def test_options_at_their_default_are_not_identified_and_all_are_stored():
    added = {
        "color_probability": 0.5,
        "blur_probability": 0.5,
        "blur_from": 0.1,
        "jitter": "torchvision",
        "eight_bit_confidence": True,
        "distils_annotated": True,
        "views": "official",
        "teacher_heads": "trained",
        "local_start": "networks",
        "last_decay": 0.9,
        "distillation_color": 0.1,
        "distillation_hue": 0.1,
    }
    kind, published = AnatomicalContrast.Config, PublishedAnatomicalContrast.Config
    plain = identity_of_settings(kind())
    assert not added.keys() & plain.keys() and added.keys() <= kind().stored().keys()
    for name, value in added.items():
        config = kind(**{name: value})
        assert identity_of_settings(config) == plain | {name: config.stored()[name]}
        assert variant_name("anatomical_contrast", config) == f"anatomical_contrast[{name}={config.stored()[name]}]"
        off = published(**{name: kind.model_fields[name].default})
        assert published.model_validate(off.stored()) == off != published()


def test_stages_of_the_defaults_are_those_without_the_options():
    stages = AnatomicalContrast.stages(AnatomicalContrast.Config(), TrainingSettings())
    assert [stage.module for stage in stages] == [GlobalDistillation, LocalDistillation]
    assert set(identity_of_settings(stages[0].config)) == {
        "color",
        "hue",
        "blur",
        "feature_dropout",
        "network",
        "decay",
        "decay_warm_up",
        "teacher_buffers",
        "queue",
        "student_temperature",
        "teacher_temperature",
    }
