"""Mean teacher: its loss with and without the teacher, the streams it asks for, and its predictions."""

import copy
from types import SimpleNamespace

import pytest
import torch
from torch.nn import functional

from tests.methods.mean_teachers import learning, loss_and_gradients, made
from tests.methods.student_teacher import NETWORKS, PAPER, loss_of, same
from tissuebench.datasets.loading.augment import recolour
from tissuebench.datasets.loading.augment_settings import AugmentSettings
from tissuebench.datasets.types import Supervision, TileBatch
from tissuebench.methods.api.contract import make_batch, make_method
from tissuebench.methods.api.method import ANNOTATED
from tissuebench.methods.api.training_settings import TrainingSettings
from tissuebench.methods.losses.dice import soft_dice_loss
from tissuebench.methods.mean_teacher import UNLABELLED, MeanTeacher
from tissuebench.methods.supervised import Supervised
from tissuebench.methods.teacher_student.cut_mix import draw_boxes
from tissuebench.methods.teacher_student.supervised_loss import SupervisedLoss


def of_supervised(method, batch):
    """The same of ``supervised`` with the same network."""
    other = made(Supervised, seed=1)
    other.network = copy.deepcopy(method.network)
    return loss_and_gradients(other.train(), {ANNOTATED: batch[ANNOTATED]})


def unlabelled(count=3, px=64, seed=0, dtype=torch.uint8):
    images = torch.randint(0, 256, (count, 3, px, px), generator=torch.Generator().manual_seed(seed))
    return images.to(torch.uint8) if dtype is torch.uint8 else images / 255


# Masks alone.


@NETWORKS
def test_before_the_warm_up_is_over_it_is_supervised_and_sees_no_other_tile(network):
    method = made(warm_up=0.3, **network).train()
    method._trainer = SimpleNamespace(global_step=5)  # of 20
    batch = make_batch(method)
    expected = of_supervised(method, batch)
    loss, gradient = loss_and_gradients(method, {ANNOTATED: batch[ANNOTATED]})
    assert torch.equal(loss, expected[0]) and same(gradient, expected[1])
    method._trainer = SimpleNamespace(global_step=6)
    with pytest.raises(KeyError, match=UNLABELLED):
        loss_of(method, {ANNOTATED: batch[ANNOTATED]})


def test_a_warm_up_of_all_steps_never_ends():
    method = made(warm_up=1.0).train()
    method._trainer = SimpleNamespace(global_step=19)
    batch = make_batch(method)
    del batch[UNLABELLED]
    assert torch.isfinite(loss_of(method, batch))


@NETWORKS
def test_without_weight_the_teacher_says_nothing(network):
    method = learning(consistency=0, strong=0.01, **network)
    assert set(method.streams()) == {ANNOTATED}
    batch = make_batch(learning(**network))
    expected = of_supervised(method, batch)
    loss, gradient = loss_and_gradients(method, batch)
    assert torch.equal(loss, expected[0]) and same(gradient, expected[1])
    assert loss_of(learning(consistency=1, strong=0.01, **network), batch) > loss


def test_the_loss_of_masks_may_be_half_of_it_dice():
    method = made(warm_up=1, supervised_loss=SupervisedLoss.CROSS_ENTROPY_DICE)
    batch = make_batch(method)
    tiles = batch[ANNOTATED]
    torch.manual_seed(3)
    logits = copy.deepcopy(method).train().network(tiles.images)
    entropy = functional.cross_entropy(logits, tiles.masks, ignore_index=255)
    expected = (entropy + soft_dice_loss(logits, tiles.masks)) / 2
    torch.testing.assert_close(loss_of(method.train(), batch), expected)


# What is learnt from the teacher.


def pasted_by_hand(values, boxes):
    """The rectangle of the next sample, one after the other."""
    mixed = values.clone()
    for i, (x0, y0, x1, y1) in enumerate(boxes.tolist()):
        mixed[i][..., y0:y1, x0:x1] = values[(i + 1) % len(values)][..., y0:y1, x0:x1]
    return mixed


@NETWORKS
@pytest.mark.parametrize("cut_mix", [True, False])
def test_is_what_the_formula_says(network, cut_mix):
    """Boxes, view and dropout drawn in the same order, everything else anew."""
    config = {
        "cut_mix": cut_mix,
        "consistency": 0.7,
        "color": 0.3,
        "hue": 0.1,
        "blur": 0.8,
        "unlabelled_ratio": 2,
        **network,
    }
    method = learning(**config)
    batch = make_batch(method)
    with torch.no_grad():
        for parameter in method.teacher.parameters():  # not the student, and surer than a network of random weights
            parameter.mul_(1.5)
        probabilities = method.teacher.module.eval()(batch[UNLABELLED].images).softmax(dim=1)
    confidence, labels = probabilities.max(dim=1)
    strong = float(confidence.median())
    method.config = method.config.model_copy(update={"strong": strong})
    twin = copy.deepcopy(method.network)

    torch.manual_seed(3)
    annotated, images = batch[ANNOTATED], batch[UNLABELLED].images
    expected = functional.cross_entropy(twin(annotated.images), annotated.masks, ignore_index=255)
    if cut_mix:
        boxes = draw_boxes(len(images), 64, 64, torch.default_generator)
        images, labels, confidence = (pasted_by_hand(each, boxes) for each in (images, labels, confidence))
    view = recolour(images / 255, int(torch.randint(2**31, ())), AugmentSettings(color=0.3, hue=0.1, blur=0.8))
    entropy = functional.cross_entropy(twin(view), labels, reduction="none")
    weights = (confidence >= strong).float().mean(dim=(1, 2))
    assert len(weights) == 4 and weights.unique().numel() > 2 and (entropy > 0).all()
    expected = expected + 0.7 * (weights[:, None, None] * entropy).mean()
    expected.backward()

    loss, gradient = loss_and_gradients(method, batch)
    torch.testing.assert_close(loss, expected.detach(), rtol=1e-5, atol=1e-6)
    for name, parameter in twin.named_parameters():
        torch.testing.assert_close(gradient[name], parameter.grad, rtol=1e-3, atol=1e-5)


@NETWORKS
def test_without_a_confident_pixel_exactly_nothing_is_added(network):
    method = learning(strong=1.0, **network)
    batch = make_batch(method)
    assert method.lesson(batch[UNLABELLED]).confidence.max() < 1
    method = learning(strong=1.0, **network)
    expected = of_supervised(method, batch)
    loss, gradient = loss_and_gradients(method, batch)
    assert torch.equal(loss, expected[0])
    assert all(torch.isfinite(value).all() for value in gradient.values())
    assert same(gradient, expected[1])


@NETWORKS
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_the_teacher_sees_the_tiles_as_they_are_and_nobody_changes_them(network, dtype):
    method, seen = learning(color=0.5, hue=0.2, **network), {}
    images = unlabelled(dtype=dtype)
    before = images.clone()
    method.teacher.register_forward_pre_hook(lambda _, inputs: seen.update(teacher=inputs[0].clone()))
    maps = method.network.maps
    method.network.maps = lambda inputs: seen.update(student=inputs) or maps(inputs)
    lesson = method.lesson(TileBatch(step=0, images=images))
    assert torch.equal(images, before) and torch.equal(seen["teacher"], before)
    assert seen["student"].dtype == torch.float32 and 0 <= seen["student"].min() <= seen["student"].max() <= 1
    assert (seen["student"] - before.float() / (255 if dtype is torch.uint8 else 1)).abs().mean() > 0.05
    assert lesson.maps.logits.requires_grad and not lesson.confidence.requires_grad


# What it asks for, and says.


@pytest.mark.parametrize("ratio", [1, 3])
@pytest.mark.parametrize("name", ["unlabelled_ratio", "crowd"])
def test_it_asks_for_masks_and_for_other_tiles_in_a_ratio_under_either_name(name, ratio):
    streams = made(**{name: ratio}).streams()
    assert {name: (one.supervision, one.batch_size) for name, one in streams.items()} == {
        ANNOTATED: (Supervision.MASKS, 2),
        UNLABELLED: (Supervision.NONE, 2 * ratio),
    }
    assert streams[ANNOTATED] == made(Supervised).streams()[ANNOTATED]


def test_it_has_no_stage_and_wants_images_for_the_papers_network_alone():
    assert MeanTeacher.stages(MeanTeacher.Config(), TrainingSettings()) == ()
    assert not MeanTeacher.wants_images(MeanTeacher.Config())
    assert MeanTeacher.wants_images(MeanTeacher.Config(**PAPER))


@NETWORKS
def test_the_student_predicts(network):
    method, images = made(**network).eval(), unlabelled()
    with torch.no_grad():
        before = method.predict(images)
        assert torch.equal(before, method.network(images).softmax(dim=1))
        for parameter in method.teacher.parameters():
            parameter.normal_()
        assert torch.equal(method.predict(images), before)
        next(iter(method.network.parameters())).normal_()
        assert not torch.equal(method.predict(images), before)


def test_it_begins_as_all_arms():
    first = {
        name: make_method(name).network.state_dict() for name in ("supervised", "mean_teacher", "anatomical_contrast")
    }
    plain = first.pop("supervised")
    for state in first.values():
        assert state.keys() == plain.keys()
        assert all(torch.equal(value, plain[name]) for name, value in state.items())
