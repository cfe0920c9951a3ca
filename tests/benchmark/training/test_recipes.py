"""Published recipes, scaled down: what each step is really taken with, of every stage, beside the formulas."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pytest
import torch

from tissuebench.methods.api.registry import find_method
from tissuebench.methods.api.stage import Trainable
from tissuebench.methods.losses.multi_target import MultiTarget
from tissuebench.methods.multilayer_pseudo import LAYERS, PSEUDO
from tissuebench.sweep.graph import stages_of

PUBLISHED = {
    "diffusion_published": (
        ("width=8", "pretraining.epochs=2", "training.epochs=2"),
        "masks:2p",
    ),
    "multilayer_pseudo_published": (
        ("classifier_width=8", "classifier_training.epochs=2", "training.epochs=2"),
        "tags:3p",
    ),
    "anatomical_contrast_published": (
        ("global_training.steps=3", "local_training.steps=3", "training.steps=3", "representation=8", "queries=8"),
        "masks:2p",
    ),
}


@dataclass
class Steps:
    """What a stage's steps were taken with."""

    optimizer: type
    groups: list = field(default_factory=list)
    clip: list = field(default_factory=list)
    tiles: list = field(default_factory=list)
    batches: list = field(default_factory=list)
    losses: list = field(default_factory=list)
    modules: list = field(default_factory=list)


@pytest.fixture
def taken(monkeypatch):
    """Steps by the name of the class that took them."""
    found: dict[str, Steps] = {}

    def before_step(module, optimizer):
        steps = found.setdefault(type(module).__name__, Steps(type(optimizer)))
        named = {id(parameter): name for name, parameter in module.named_parameters()}
        steps.groups.append(
            [
                {key: value for key, value in group.items() if key != "params"}
                | {"encoder": {bool({"encoder", "backbone"} & set(named[id(p)].split("."))) for p in group["params"]}}
                for group in optimizer.param_groups
            ]
        )
        steps.clip.append(module.trainer.gradient_clip_val)

    def after_step(module, outputs, batch, batch_idx):
        steps = found[type(module).__name__]
        steps.tiles.append({name: len(tiles.images) for name, tiles in batch.items()})
        steps.batches.append(batch)
        steps.losses.append(float(outputs["loss"]))
        steps.modules = [module]

    monkeypatch.setattr(Trainable, "on_before_optimizer_step", before_step, raising=False)
    monkeypatch.setattr(Trainable, "on_train_batch_end", after_step, raising=False)
    return found


def ran(bench, method):
    settings, budget = PUBLISHED[method]
    plan = bench.plan("seeds=[0]", f"budgets=['{budget}']", *(f"methods.{method}.{one}" for one in settings))
    (trial,) = bench.trials(plan, method)
    bench.run([trial])
    assert not [change for change in bench.seen.changes if "failed" in str(change[1])], bench.seen.changes
    return trial, {stage.name: stage for stage in stages_of(trial)}


def polynomial(base, steps):
    return [base * (1 - step / steps) ** 0.9 for step in range(steps)]


def rates(steps, group):
    return [groups[group]["lr"] for groups in steps.groups]


def test_diffusion(bench, taken):
    trial, stages = ran(bench, "diffusion_published")
    pretraining, tuning = taken["Denoising"], taken["PublishedDiffusion"]
    n_tissue, n_masks = (trial.n_tiles[kind] for kind in ("none", "masks"))
    assert len(pretraining.groups) == 2 * (n_tissue // 8) == stages["pretrain"].training.steps
    assert len(tuning.groups) == 2 * max(1, n_masks // 8)
    for steps, betas in ((pretraining, (0.9, 0.999)), (tuning, (0.5, 0.999))):
        assert steps.optimizer is torch.optim.Adam
        (groups,) = {len(groups) for groups in steps.groups}
        assert groups == 1 and set(steps.clip) == {None}
        for (group,) in steps.groups:
            assert (group["lr"], tuple(group["betas"]), group["weight_decay"]) == (1e-4, betas, 0.0)
        assert all(set(tiles.values()) == {8} for tiles in steps.tiles)
    (module,) = pretraining.modules
    weights = [p.detach() for name, p in module.named_parameters() if name.endswith("weight") and p.ndim == 4]
    assert weights and all(float(one.std()) < 0.02 for one in weights)  # from N(0, .01^2), hardly moved yet


def test_the_loss_of_the_denoiser_is_that_of_the_code(bench, taken):
    ran(bench, "diffusion_published")
    (module,), batch = taken["Denoising"].modules, taken["Denoising"].batches[0]
    seen = []
    module.network.forward = lambda noisy, t: seen.append(noisy) or torch.full_like(noisy, 0.25)
    torch.manual_seed(3)
    loss = float(module.training_step(batch, 0))
    torch.manual_seed(3)
    t, noise = torch.randint(1000, (8,)), torch.randn(8, 3, 32, 32)
    betas = np.linspace(1e-4**0.5, 0.02**0.5, 1000) ** 2
    kept = torch.tensor(np.cumprod(1 - betas)[t.numpy()], dtype=torch.float32)
    clean = batch["tissue"].images * 2 - 1
    noisy = kept.sqrt()[:, None, None, None] * clean + (1 - kept).sqrt()[:, None, None, None] * noise
    torch.testing.assert_close(seen[0], noisy, rtol=1e-4, atol=1e-5)
    errors = (noise - 0.25).square().mean(dim=(1, 2, 3))
    assert loss == pytest.approx(float(((1 - kept) * errors).sum()), rel=1e-4)  # summed over the batch


def test_multilayer_pseudo(bench, taken):
    trial, stages = ran(bench, "multilayer_pseudo_published")
    classifier, segmenter = taken["TagClassification"], taken["PublishedMultilayerPseudo"]
    n_tags = trial.n_tiles["tags"]
    assert len(classifier.groups) == 2 * max(1, n_tags // 20) == stages["classify_tags"].training.steps
    assert len(segmenter.groups) == 2 * -(-n_tags // 20) == trial.training.steps
    for steps, momentum in ((classifier, 5e-4), (segmenter, 0.9)):
        assert steps.optimizer is torch.optim.SGD and set(steps.clip) == {None}
        n = len(steps.groups)
        np.testing.assert_allclose(rates(steps, 0), polynomial(0.01, n), rtol=1e-6)
        np.testing.assert_allclose(rates(steps, 1), polynomial(0.1, n), rtol=1e-6)
        for encoder, head in steps.groups:
            assert (encoder["encoder"], head["encoder"]) == ({True}, {False})
            assert {(one["momentum"], one["nesterov"], one["weight_decay"]) for one in (encoder, head)} == {
                (momentum, False, 5e-4)
            }
        assert all(set(tiles.values()) == {20} for tiles in steps.tiles)


def test_the_loss_of_the_segmenter_is_that_of_the_code(bench, taken):
    ran(bench, "multilayer_pseudo_published")
    (method,) = taken["PublishedMultilayerPseudo"].modules
    batch = taken["PublishedMultilayerPseudo"].batches[0]
    assert method.config.loss is MultiTarget.OFFICIAL and LAYERS == ("shallow", "middle", "deep")
    method.eval()
    with torch.no_grad():
        logits = method.network(batch[PSEUDO].inputs).double().cpu().numpy()
        loss = float(method.training_step(batch, 0))
    targets = batch[PSEUDO].pseudo_masks.cpu().numpy()
    n, k = logits.shape[:2]
    ignored = targets == 255
    five = np.concatenate([logits, 100.0 * ignored[:, -1:]], axis=1)
    log_p = five - np.log(np.exp(five - five.max(1, keepdims=True)).sum(1, keepdims=True)) - five.max(1, keepdims=True)
    targets = np.where(ignored, k, targets)
    of_layers = [-np.take_along_axis(log_p, targets[:, [layer]], axis=1).mean() / n for layer in range(3)]
    assert loss == pytest.approx(0.2 * of_layers[0] + 0.2 * of_layers[1] + 0.6 * of_layers[2], rel=1e-4)


def test_anatomical_contrast(bench, taken):
    ran(bench, "anatomical_contrast_published")
    expected = {
        "GlobalDistillation": ({"annotated": 3, "tissue": 3}, False),
        "LocalDistillation": ({"annotated": 3, "tissue": 3}, False),
        "PublishedAnatomicalContrast": ({"annotated": 4, "unlabelled": 4}, True),
    }
    assert taken.keys() == expected.keys()
    for name, (tiles, nesterov) in expected.items():
        steps = taken[name]
        assert steps.optimizer is torch.optim.SGD and set(steps.clip) == {None} and len(steps.groups) == 3
        np.testing.assert_allclose(rates(steps, 0), polynomial(0.01, 3), rtol=1e-6)
        for (group,) in steps.groups:
            assert (group["momentum"], group["nesterov"], group["weight_decay"]) == (0.9, nesterov, 1e-4)
        assert all(seen == tiles for seen in steps.tiles), steps.tiles
        images = next(iter(steps.batches[0].values())).images
        assert images.shape[-1] == 32 and 0 <= float(images.min()) <= float(images.max()) <= 1


@pytest.mark.parametrize("method", PUBLISHED)
def test_a_recipe_is_the_same_whatever_the_plan_shares(bench, method):
    budget = PUBLISHED[method][1]
    kind = find_method(method)
    plans = [
        bench.plan("seeds=[0]", f"budgets=['{budget}']", *more)
        for more in (
            (),
            ("training.optimizer=sgd", "training.momentum=0.5", "training.steps=99", "augmentation.hue=0.4"),
        )
    ]
    (one,), (other,) = (bench.trials(plan, method) for plan in plans)
    assert one.training == other.training and one.augmentation == other.augmentation
    assert [stage.training for stage in stages_of(one)] == [stage.training for stage in stages_of(other)]
    assert one.identity()["training"] != other.identity()["training"]  # that of the plan it is compared under
    assert kind.training_of(one.config, plans[1].training).epochs == one.training.epochs
