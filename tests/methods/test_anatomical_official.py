"""Options of anatomical contrast that name what the official code does: hand computations and golden arrays."""

import copy
from dataclasses import replace

import pytest
import torch
from torch.nn import functional

from tests.methods.anatomical_phases import K, annotated, learning_names, made, stage_made, unlabelled
from tests.methods.mean_teachers import learning
from tests.methods.student_teacher import PAPER, copied, loss_of, same
from tissuebench.datasets.loading.augment import recolour
from tissuebench.datasets.loading.augment_settings import AugmentSettings
from tissuebench.datasets.types import Supervision
from tissuebench.errors import ConfigError
from tissuebench.methods.anatomical_contrast import AnatomicalContrast
from tissuebench.methods.api.method import ANNOTATED
from tissuebench.methods.api.training_settings import TrainingSettings
from tissuebench.methods.contrastive.distillation import distillation_loss, published_rows
from tissuebench.methods.contrastive.stages import (
    GLOBAL,
    STUDENT,
    TISSUE,
    LocalDistillation,
)
from tissuebench.methods.mean_teacher import RestartedMeanTeacher
from tissuebench.methods.teacher_student.strong_view import StrongView

PLAIN = {"color": 0, "hue": 0, "blur": 0, **PAPER}
TEACHER = "teacher.module."


def apart(stage, seed=4):
    """The stage with a teacher that is not the student."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in stage.teacher.parameters():
            parameter.add_(torch.randn(parameter.shape) * 0.02)
    return stage.train()


def seen_by_networks(stage, batch):
    """What student and teacher were shown in one step."""
    seen = {}
    for name, network in (("student", stage.pupil.network), ("teacher", stage.teaching.network)):
        for call in ("deepest", "maps"):
            own = getattr(network, call)
            setattr(network, call, lambda x, own=own, name=name: seen.setdefault(name, []).append(x) or own(x))
    loss_of(stage, batch)
    return seen


# Tiles.


def test_half_of_the_first_phase_are_tiles_with_masks_which_are_not_read():
    stage = stage_made(distils_annotated=True, **PLAIN).train()
    stage.task = replace(stage.task, training=TrainingSettings(batch_size=7))
    streams = {name: (one.supervision, one.batch_size, one.balanced) for name, one in stage.streams().items()}
    assert streams == {ANNOTATED: (Supervision.MASKS, 3, False), TISSUE: (Supervision.NONE, 4, True)}
    assert not stage.is_annotated
    masks, tiles, queue = annotated(), unlabelled(), stage.queue.keys.clone()
    images = torch.cat([masks.images, tiles.images])
    stage.pupil.eval()  # no dropout
    twin = copy.deepcopy(stage)
    vectors, keys = twin.predictor(twin.pupil.tile_vectors(images)), twin.teaching.tile_vectors(images)
    loss = loss_of(stage, {ANNOTATED: masks, TISSUE: tiles})
    torch.testing.assert_close(loss, distillation_loss(vectors, keys, queue))
    torch.testing.assert_close(stage.queue.keys[:5], keys)
    other = replace(masks, masks=torch.zeros_like(masks.masks))
    assert torch.equal(loss_of(copy.deepcopy(twin), {ANNOTATED: other, TISSUE: tiles}), loss)


def test_the_first_phase_then_depends_on_the_budget():
    def stage(**config):
        return AnatomicalContrast.stages(AnatomicalContrast.Config(**config), TrainingSettings())[0]

    assert stage(distils_annotated=True).consumes == {Supervision.MASKS}
    assert stage(distils_annotated=True).depends_on_budget and not stage().depends_on_budget


def test_a_batch_of_one_tile_has_no_half():
    stage = stage_made(distils_annotated=True, **PLAIN)
    stage.task = replace(stage.task, training=TrainingSettings(batch_size=1))
    with pytest.raises(ConfigError, match="at least 2 tiles, not 1"):
        stage.streams()


def test_the_second_phase_distils_the_tiles_with_masks_in_one_forward_pass():
    said = {"global_weight": 0, "local_weight": 0, "distils_annotated": True, **PAPER}
    stage = stage_made(LocalDistillation, **said).train()
    masks, tiles = annotated(), unlabelled()
    seen = seen_by_networks(copy.deepcopy(stage), {ANNOTATED: masks, TISSUE: tiles})
    assert [len(each) for each in seen["student"]] == [5] == [len(each) for each in seen["teacher"]]
    assert torch.equal(seen["teacher"][0], torch.cat([masks.images, tiles.images]))
    stage.pupil.network.eval()  # no dropout
    logits = stage.pupil.network.maps(seen["student"][0]).logits[:2]
    loss = loss_of(stage, {ANNOTATED: masks, TISSUE: tiles})
    torch.testing.assert_close(loss, functional.cross_entropy(logits, masks.masks, ignore_index=255))
    assert stage.queue.pointer == 5 and stage.window_queue.pointer == 5


# Views.


def test_official_views_share_the_colours_and_blur_the_teachers_alone():
    stage = stage_made(views="official", color=0.3, hue=0.1, blur=2.0, **PAPER).train()
    tiles = unlabelled()
    before = tiles.images.clone()
    seen = seen_by_networks(stage, {TISSUE: tiles})
    torch.manual_seed(3)
    first, second = (int(torch.randint(2**31, ())) for _ in range(2))
    colours = recolour(tiles.images / 255, first, AugmentSettings(color=0.3, hue=0.1, blur=0))
    assert torch.equal(seen["student"][0], colours)
    assert torch.equal(seen["teacher"][0], recolour(colours, second, AugmentSettings(color=0, hue=0, blur=2.0)))
    assert (colours - tiles.images / 255).abs().mean() > 0.02
    variance = [float((each[0][..., 1:] - each[0][..., :-1]).var()) for each in (seen["teacher"], seen["student"])]
    assert variance[0] < 0.8 * variance[1]
    assert torch.equal(tiles.images, before)


def test_the_strong_view_passes_probabilities_and_the_smallest_sigma_on():
    said = {
        "color": 0.25,
        "hue": 0.25,
        "blur": 1.15,
        "color_probability": 0.5,
        "blur_probability": 0.5,
        "blur_from": 0.15,
    }
    said |= {"jitter": "torchvision"}
    view, images = StrongView(**said), unlabelled(8).images
    torch.manual_seed(3)
    found = view.of(images)
    torch.manual_seed(3)
    assert torch.equal(found, recolour(images / 255, int(torch.randint(2**31, ())), AugmentSettings(**said)))
    as_they_are = [torch.allclose(one, image / 255, atol=1e-6) for one, image in zip(found, images, strict=True)]
    assert 0 < sum(as_they_are) < 8


def test_the_papers_views_leave_the_teachers_tile_as_it_is():
    stage, tiles = stage_made(**PAPER).train(), unlabelled()
    seen = seen_by_networks(stage, {TISSUE: tiles})
    assert torch.equal(seen["teacher"][0], tiles.images)
    assert (seen["student"][0] - tiles.images / 255).abs().mean() > 0.02


@pytest.mark.parametrize("views", ["student_strong", "official"])
def test_a_part_of_the_batch_sees_what_it_sees_in_the_whole(views):
    """Several processes, each with some of the tiles."""
    stage, tiles = stage_made(views=views, **PAPER), unlabelled(4)
    mine = replace(tiles, images=tiles.images[2:], offset=2, total=4)
    shown = []
    for part in (tiles, mine):
        torch.manual_seed(1)
        (tile,) = stage.distilled_tiles({TISSUE: part})
        shown.append((stage.taught([tile]), stage.learnt([tile])))
    for whole, own in zip(*shown, strict=True):
        torch.testing.assert_close(own, whole[2:])


def test_the_first_phases_have_colours_of_their_own():
    config = AnatomicalContrast.Config(color=0.25, hue=0.2, distillation_color=0.2, distillation_hue=0.1)
    for stage in AnatomicalContrast.stages(config, TrainingSettings()):
        assert (stage.config.color, stage.config.hue) == (0.2, 0.1)
    assert (config.color, config.hue) == (0.25, 0.2)


# The teacher.


def test_trained_heads_of_the_teacher_get_the_gradient_of_targets_and_no_average():
    stage = stage_made(LocalDistillation, teacher_heads="trained", **PLAIN)
    heads = {name: value for name, value in copied(stage).items() if "_head" in name and name.startswith(TEACHER)}
    assert len(heads) == 8
    own = stage.state_dict()
    assert not any(torch.equal(value, own[name.replace(TEACHER, "pupil.")]) for name, value in heads.items())
    assert same(copied(stage.teaching.network), copied(stage.pupil.network))
    apart(stage)
    twin, batch = copy.deepcopy(stage), {ANNOTATED: annotated(), TISSUE: unlabelled()}
    loss_of(stage, batch).backward()
    learning = {name for name in learning_names(stage) if name.startswith(TEACHER)}
    assert learning == heads.keys()
    trained = {id(p) for group in stage.configure_optimizers()["optimizer"].param_groups for p in group["params"]}
    assert {
        name for name, p in stage.named_parameters() if name.startswith(TEACHER) and id(p) in trained
    } == heads.keys()

    # by hand: the teacher's softmax, not detached
    torch.manual_seed(3)
    twin.pupil.network.maps(batch[ANNOTATED].images)
    with torch.no_grad():
        deepest = twin.teaching.network.maps(batch[TISSUE].images).deepest
    keys = twin.teaching.global_head(deepest)
    learnt = twin.pupil.network.maps(twin.learnt([batch[TISSUE]]))
    vectors, queue = twin.predictor(twin.pupil.global_head(learnt.deepest)), twin.queue.keys.clone()
    p_s, p_t = (
        (functional.cosine_similarity(rows[:, None], queue, dim=2) / t).softmax(dim=1)
        for rows, t in ((vectors, 0.1), (keys, 0.01))
    )
    (p_t * (p_t.clamp(min=1e-30).log() - p_s.log())).sum(dim=1).mean().backward()
    for mine, theirs in zip(
        stage.teaching.global_head.parameters(), twin.teaching.global_head.parameters(), strict=True
    ):
        torch.testing.assert_close(mine.grad, theirs.grad, rtol=1e-3, atol=1e-5)

    before = copied(stage.teaching)
    stage.teacher.update_parameters(stage.pupil)
    changed = {name for name, value in stage.teaching.state_dict().items() if not torch.equal(value, before[name])}
    assert any(name.startswith("network.") for name in changed) and not any("_head" in name for name in changed)


def test_averaged_heads_are_without_gradient():
    stage = apart(stage_made(LocalDistillation, **PLAIN))
    loss_of(stage, {ANNOTATED: annotated(), TISSUE: unlabelled()}).backward()
    assert not any(name.startswith("teacher") for name in learning_names(stage))


def test_trained_heads_resume_from_their_state():
    stage = apart(stage_made(teacher_heads="trained", **PLAIN))
    other = stage_made(seed=9, teacher_heads="trained", **PLAIN).train()
    other.load_state_dict(stage.state_dict())
    losses = [loss_of(one, {TISSUE: unlabelled()}) for one in (stage, other)]
    assert torch.equal(*losses)
    for one, loss in zip((stage, other), losses, strict=True):
        loss.backward()
        one.teacher.update_parameters(one.pupil)
    assert same(copied(stage), copied(other))


@pytest.mark.parametrize("buffers", ["own", "copy"])
def test_a_teacher_with_its_own_buffers_trains_with_dropout_on_its_own_batches(buffers):
    method = learning(teacher_buffers=buffers, **PAPER)
    images = unlabelled().images
    before = copied(method.teacher)
    first, second = (method.teacher_probabilities(images) for _ in range(2))
    moved = {name for name, value in method.teacher.state_dict().items() if not torch.equal(value, before[name])}
    if buffers == "copy":
        assert torch.equal(first, second) and not moved
        return
    assert not torch.equal(first, second)  # dropout
    assert moved and all("running" in name or "num_batches" in name for name in moved)
    one = method.teacher_probabilities(images[:1])  # statistics of the batch: a tile depends on its neighbours
    method.teacher.apply(lambda module: setattr(module, "p", 0.0) if isinstance(module, torch.nn.Dropout) else None)
    assert not torch.allclose(method.teacher_probabilities(images)[:1], method.teacher_probabilities(images[:1]))
    assert one.shape == (1, K, 64, 64)
    method.eval()
    method.train()
    assert method.teacher.module.training


def test_two_updates_by_one_decay_are_one_by_its_square():
    once, twice = (made(decay_warm_up=False, decay=0.99, last_decay=last, **PAPER) for last in (0.9801, None))
    assert (once.decay, twice.decay) == (0.9801, 0.99)
    with torch.no_grad():
        for method in (once, twice):
            torch.manual_seed(2)
            for parameter in method.network.parameters():
                parameter.add_(torch.randn(parameter.shape))
    once.teacher.update_parameters(once.network)
    for _ in range(2):
        twice.teacher.update_parameters(twice.network)
    for one, other in zip(once.teacher.parameters(), twice.teacher.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)
    assert stage_made(decay=0.99).decay == 0.99


def test_the_control_takes_the_decay_of_the_last_phase():
    planned = {"anatomical_contrast": {"decay": 0.9, "last_decay": 0.8}}
    assert RestartedMeanTeacher.planned_settings(planned) == {"decay": 0.8}


@pytest.mark.parametrize("on", [True, False])
def test_confidence_passes_through_eight_bits(on):
    method = learning(eight_bit_confidence=on, cut_mix=False, **PAPER)
    confidence = torch.tensor([0.9701, 248 / 255 + 1e-6, 0.7001, 179 / 255 + 1e-6]).view(1, 1, 1, 4)
    rest = (1 - confidence) / (K - 1)
    said = torch.cat([confidence, rest.expand(1, K - 1, 1, 4)], dim=1).repeat(3, 1, 64, 16)
    method.teacher_probabilities = lambda inputs: said
    lesson = method.lesson(unlabelled())
    found = lesson.confidence[0, 0, :4]
    expected = torch.tensor([247, 248, 178, 179]) / 255 if on else confidence.flatten()
    torch.testing.assert_close(found, expected)
    assert (found >= 0.97).tolist() == [not on, True, False, False]
    assert (found >= 0.7).tolist() == [True, True, not on, True]


# Phases.


def test_the_second_phase_may_start_from_the_networks_alone():
    given = copied(apart(stage_made(seed=1, **PAPER)))
    stage = stage_made(LocalDistillation, local_start="networks", **PAPER)
    before = copied(stage)
    stage.inherit({GLOBAL: given})
    for name, value in stage.state_dict().items():
        of_network = name.startswith((STUDENT, f"{TEACHER}network."))
        assert torch.equal(value, given[name] if of_network else before[name]), name
    assert not same(copied(stage.teaching.network), copied(stage.pupil.network))
    with pytest.raises(ValueError, match="those of another network"):
        stage.inherit({GLOBAL: copied(stage_made())})


def test_official_anchors_store_keys_in_the_order_of_the_code():
    """The lines of ``model.py``: windows one after the other, each (N, D), read as (N, W, D)."""
    stages = [stage_made(LocalDistillation, anchors=anchors, **PLAIN).train() for anchors in ("official", "published")]
    batch = {ANNOTATED: annotated(), TISSUE: unlabelled()}
    losses = [loss_of(stage, batch) for stage in stages]
    assert torch.equal(*losses)  # of the first step, whose queue is random
    official, ordered = (stage.window_queue.keys[:3] for stage in stages)
    one_after_the_other = torch.cat([ordered[:, window] for window in range(ordered.shape[1])])
    assert torch.equal(official, one_after_the_other.reshape(ordered.shape))
    assert not torch.equal(official, ordered)
    rows = one_after_the_other.reshape(ordered.shape[1], 3, -1).reshape(-1, ordered.shape[1])
    assert torch.equal(rows, published_rows(ordered))
    assert not torch.equal(*(loss_of(stage, batch) for stage in stages))
