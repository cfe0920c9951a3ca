"""Stages that make pseudo-masks of tags: their loss, what they do where tags or maps say nothing, and what they say."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional

from tests.properties import examples
from tissuebench.datasets.color.white_background import WhiteBackground
from tissuebench.datasets.types import IGNORE_LABEL, Supervision, TileBatch
from tissuebench.methods.api.contract import CLASS_MAP, make_task
from tissuebench.methods.pseudo_labels.attention_dropout import AttentionSchedule, DropoutForm
from tissuebench.methods.pseudo_labels.grad_cam import enlarge
from tissuebench.methods.pseudo_labels.pseudo_masks import Absent, Scale, min_max
from tissuebench.methods.pseudo_labels.tag_classifier import LAYERS, MapSource
from tissuebench.methods.pseudo_labels.tag_stages import ClassifierSettings, Fill, Rule, TagClassification, tag_loss

GOLDEN = Path(__file__).parents[2] / "golden"
K, PX = len(CLASS_MAP), 16
GLASS, STROMA, TUMOUR_A, TUMOUR_B = range(K)
WHITE = WhiteBackground(grey_above=200, min_px=5)
ALL = torch.ones(K, dtype=torch.bool)


def made(stage=TagClassification, white=None, survey=None, **config):
    """A stage in evaluation mode that has seen tags, by default of every class; maps are scaled one by one, nothing is doubted."""
    torch.manual_seed(0)
    task = replace(make_task(), tile_px=PX, white=white)
    settings = (
        stage.Config() if stage is Fill else ClassifierSettings(**{"rule": Rule.PER_CLASS, "doubt": False, **config})
    )
    found = stage(task, settings).eval()
    found.survey({found.stream: torch.eye(K, dtype=torch.bool) if survey is None else survey})
    return found


def tags(*rows):
    """One row a tile, its classes."""
    present = torch.zeros(len(rows), K, dtype=torch.bool)
    for number, classes in enumerate(rows):
        present[number, list(classes)] = True
    return present


def batch(present, masks=None, seed=0):
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 150, (len(present), 3, PX, PX), generator=generator, dtype=torch.uint8)
    return TileBatch(step=0, images=pixels, tags=present, masks=masks)


def with_maps(stage, cams):
    """The stage's classifier gives these maps, (B, 3, K, PX, PX)."""
    stage.classifier.activation_maps = lambda inputs, size: cams
    return stage


def random_maps(n, seed=0):
    return torch.randn(n, 3, K, PX, PX, generator=torch.Generator().manual_seed(seed))


# The loss.


@pytest.fixture(scope="module")
def golden():
    with np.load(GOLDEN / "mlps_clsloss.npz", allow_pickle=False) as arrays:
        return {key: torch.from_numpy(arrays[key]) for key in arrays.files}


def test_golden_loss(golden):
    found = tag_loss(golden["logits"][:, None], golden["labels"].bool(), torch.ones(4, dtype=torch.bool))
    torch.testing.assert_close(found, golden["loss"], rtol=1e-9, atol=0, check_dtype=False)


def random_logits(seed, heads=3, n=5):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(n, heads, K, generator=generator, dtype=torch.float64) * 3
    return logits, torch.rand(n, K, generator=generator) < 0.4


@examples(30)
@given(st.integers(0, 2**31), st.integers(1, 4), st.lists(st.booleans(), min_size=K, max_size=K))
def test_the_loss_is_torchs_over_heads_and_seen_classes(seed, heads, seen):
    logits, present = random_logits(seed, heads)
    logits.requires_grad_()
    seen = torch.tensor(seen)
    loss = tag_loss(logits, present, seen)
    (gradient,) = torch.autograd.grad(loss, logits)
    if not seen.any():
        assert loss == 0
        assert (gradient == 0).all()
        return
    of_heads = [
        functional.multilabel_soft_margin_loss(head[:, seen], present[:, seen].double()) for head in logits.unbind(1)
    ]
    torch.testing.assert_close(loss, torch.stack(of_heads).mean())
    assert (gradient[..., ~seen] == 0).all()
    assert (gradient[..., seen] != 0).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_narrow_logits_are_evaluated_in_float32(dtype):
    logits, present = random_logits(0)
    narrow = logits.to(dtype)
    loss = tag_loss(narrow, present, ALL)
    assert loss.dtype == torch.float32
    assert torch.equal(loss, tag_loss(narrow.float(), present, ALL))
    extreme = (torch.tensor([[1.0, -1.0, 1.0, -1.0]]).view(1, 1, K) * 6e4).to(dtype).requires_grad_()
    loss = tag_loss(extreme, tags([GLASS, STROMA]), ALL)
    assert torch.isfinite(loss)
    assert torch.isfinite(torch.autograd.grad(loss, extreme)[0]).all()


@pytest.mark.parametrize("form", [None, *DropoutForm])
@pytest.mark.parametrize("progress", [0.0, 0.34, 0.99])
def test_attention_follows_the_share_of_the_steps_that_is_done(monkeypatch, form, progress):
    stage, asked = made(attention=form, attention_epochs=10, attention_divisor=7), []
    monkeypatch.setattr(TagClassification, "progress", progress)
    stage.classifier.forward = lambda inputs, keep, divisor: asked.append((keep, divisor)) or torch.zeros(2, 3, K)
    stage.training_step({stage.stream: batch(tags([0], [1]))}, 0)
    keep = None if form is None else AttentionSchedule(form).keep(int(10 * progress))
    assert asked == [(keep, 7)]


# What stages know of tags.


@pytest.mark.parametrize("kind", [TagClassification, Fill])
def test_what_is_missing_is_said_once(kind):
    seen = tags([GLASS, STROMA], [], [STROMA, TUMOUR_B], [])
    stage = made(kind, survey=seen)
    stage.survey({stage.stream: seen})  # by a process that resumes
    assert stage.counts.tolist() == [1, 2, 0, 1]
    assert stage.seen.tolist() == [True, True, False, True]
    assert stage.notes == ("no tile is tagged tumour_a: it is not learnt and no pseudo-mask shows it",)
    assert made(kind).notes == ()
    assert dict(stage.named_buffers()).keys() >= {"counts", "seen"}  # of the state that a method inherits


@pytest.mark.parametrize("kind", [TagClassification, Fill])
def test_their_stream_is_of_tags_and_of_the_tiles_that_are_annotated(kind):
    stage = made(kind)
    (stream,) = stage.streams().values()
    assert (stream.supervision, stream.batch_size) == (Supervision.TAGS, 2)
    assert stage.layers == (LAYERS if kind is TagClassification else ("fill",))


# Masks from maps.


@st.composite
def situations(draw):
    seed = draw(st.integers(0, 2**31))
    present = tags(*(draw(st.lists(st.integers(0, K - 1), max_size=K)) for _ in range(4)))
    cams = random_maps(4, seed) * draw(st.sampled_from([1e-4, 1.0, 1e4]))
    if draw(st.booleans()):
        cams = cams.round()  # ties
    if draw(st.booleans()):
        cams[:, draw(st.integers(0, 2))] = 0
    seen = torch.tensor([draw(st.booleans()) for _ in range(K)])
    return present, cams, seen, draw(st.sampled_from(Rule))


@examples(40)
@given(situations())
def test_masks_show_present_classes_that_were_learnt_and_nothing_else(situation):
    present, cams, seen, rule = situation
    stage = with_maps(_STAGES[rule], cams)
    stage.seen.copy_(seen)
    layers = stage.annotate(batch(present))
    assert (layers.shape, layers.dtype) == ((4, 3, PX, PX), torch.uint8)
    for number, shown in enumerate(present & seen):
        allowed = shown.nonzero().flatten()
        for mask, maps in zip(layers[number], cams[number], strict=True):
            if len(allowed) == 0 or (len(allowed) > 1 and (maps == 0).all()):
                assert (mask == IGNORE_LABEL).all()
            elif len(allowed) == 1:
                assert (mask == allowed[0]).all()
            else:
                assert torch.isin(mask.long(), allowed).all() or rule is Rule.BOTH
                assert torch.isin(mask.long(), torch.cat([allowed, torch.tensor([IGNORE_LABEL])])).all()


_STAGES = {rule: made(rule=rule) for rule in Rule}


def test_rules_are_told_apart():
    """Stroma is everywhere likelier than tumour, but most so on the left."""
    cams = torch.zeros(1, 3, K, PX, PX)
    cams[:, :, STROMA] = torch.linspace(10, 5, PX)
    cams[:, :, TUMOUR_A] = torch.linspace(1, 4, PX)
    found = {}
    for rule in Rule:
        (mask,) = with_maps(made(rule=rule, threshold=0.8), cams).annotate(batch(tags([STROMA, TUMOUR_A])))[:, 0]
        assert (mask == mask[0]).all()
        found[rule] = (mask[0] == STROMA).tolist()
    assert found[Rule.BOTH] == [True] * 8 + [False] * 8
    assert found[Rule.JOINT] == [True] * PX
    assert found[Rule.PER_CLASS] == [True] * 8 + [False] * 8
    scaled = min_max(cams[:, 0], Scale.PER_CLASS)[0, STROMA, 0]
    assert found[Rule.SHARED_THRESHOLD] == (scaled > 0.8).tolist()
    assert 0 < sum(found[Rule.SHARED_THRESHOLD]) < 8


def test_both_is_where_joint_and_per_class_agree():
    cams, present = random_maps(4), tags([STROMA, TUMOUR_A], [GLASS, STROMA, TUMOUR_B], [TUMOUR_B], [])
    joint, per_class, both = (
        with_maps(made(rule=rule), cams).annotate(batch(present)) for rule in (Rule.JOINT, Rule.PER_CLASS, Rule.BOTH)
    )
    assert 0 < (joint != per_class).float().mean() < 0.5
    assert torch.equal(both, joint.masked_fill(joint != per_class, IGNORE_LABEL))


def test_the_official_form_of_absence_reaches_the_masks():
    cams = torch.ones(1, 3, K, PX, PX)
    cams[:, :, STROMA, 3, 4] = -1  # the lowest of the tile: scaled to 0, as an absent class of lower index is
    masks = [with_maps(made(rule=Rule.JOINT, absent=absent), cams).annotate(batch(tags([STROMA]))) for absent in Absent]
    shown = dict(zip(Absent, masks, strict=True))
    assert (shown[Absent.EXCLUDED] == STROMA).all()
    assert (shown[Absent.ZERO][:, :, 3, 4] == GLASS).all()
    assert (shown[Absent.ZERO] == GLASS).sum() == 3


@pytest.mark.parametrize("rule", list(Rule))
def test_pixels_that_a_class_without_a_tag_claims_are_doubted(rule):
    """Its score must be positive and the highest, and it must have been learnt."""
    cams = random_maps(3)
    present, seen = tags([STROMA, TUMOUR_A], [STROMA], [GLASS, STROMA, TUMOUR_A]), tags([GLASS, STROMA], [TUMOUR_A])
    stages = {doubt: with_maps(made(rule=rule, doubt=doubt, survey=seen), cams) for doubt in (True, False)}
    plain, doubted = (stages[doubt].annotate(batch(present)) for doubt in (False, True))
    of_present = cams.masked_fill(~present[:, None, :, None, None], -torch.inf).amax(dim=2)
    learnt = ~present & torch.tensor([True, True, True, False])  # nothing is known of tumour_b
    of_absent = cams.masked_fill(~learnt[:, None, :, None, None], -torch.inf).amax(dim=2)
    claimed = (of_absent > 0) & (of_absent > of_present)
    assert 0 < claimed[:2].float().mean() < 0.9
    assert not claimed[2].any()
    assert torch.equal(doubted, plain.masked_fill(claimed, IGNORE_LABEL))


def test_grad_cam_which_has_no_zero_doubts_nothing():
    present = tags([STROMA, TUMOUR_A])
    plain, doubted = (
        with_maps(made(maps=MapSource.GRAD_CAM, doubt=doubt), random_maps(1)).annotate(batch(present))
        for doubt in (False, True)
    )
    assert torch.equal(plain, doubted)


@pytest.mark.parametrize("rule", list(Rule))
@pytest.mark.parametrize("kind", ["nothing", "enlarged"])
def test_maps_that_are_the_same_everywhere_annotate_single_tags_only(rule, kind):
    cams = torch.zeros(3, 3, K, PX, PX)
    if kind == "enlarged":  # a map of one pixel, with what rounding leaves of it
        value = torch.tensor([0.3]) if rule is Rule.JOINT else torch.tensor([0.3, 0.7, -0.2, 1.1])
        cams = enlarge(value.view(1, -1, 1, 1).repeat(3, K // len(value), 1, 1), (PX, PX))[:, None].repeat(
            1, 3, 1, 1, 1
        )
    stage = with_maps(made(rule=rule), cams)
    assert not stage.notes
    layers = stage.annotate(batch(tags([STROMA, TUMOUR_A], [TUMOUR_B], [])))
    assert (layers[0] == IGNORE_LABEL).all()
    assert (layers[1] == TUMOUR_B).all()
    assert (layers[2] == IGNORE_LABEL).all()
    stage.annotate(batch(tags([GLASS, STROMA], [GLASS], [])))
    (said,) = stage.notes
    assert "constant activation maps" in said


def test_one_flat_depth_does_not_silence_the_others():
    cams = random_maps(1)
    cams[:, 1] = 0
    layers = with_maps(made(), cams).annotate(batch(tags([STROMA, TUMOUR_A])))
    assert (layers[:, 1] == IGNORE_LABEL).all()
    assert (layers[:, [0, 2]] != IGNORE_LABEL).all()


def test_joint_maps_that_differ_between_classes_only_do_say_something():
    cams = torch.arange(K).view(1, 1, K, 1, 1).expand(1, 3, K, PX, PX).float()
    stage = with_maps(made(rule=Rule.JOINT), cams)
    assert (stage.annotate(batch(tags([STROMA, TUMOUR_A]))) == TUMOUR_A).all()
    assert not stage.notes


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_maps_that_are_no_numbers_are_refused(value):
    cams = random_maps(2)
    cams[1, 2, GLASS, 0, 0] = value
    with pytest.raises(ValueError, match="the classifier diverged; lower classifier_training"):
        with_maps(made(), cams).annotate(batch(tags([STROMA], [STROMA])))


@pytest.mark.parametrize("maps", list(MapSource))
def test_weights_that_are_no_numbers_are_refused(maps):
    stage = made(maps=maps)
    assert stage.annotate(batch(tags([STROMA]))).shape == (1, 3, PX, PX)
    with torch.no_grad():
        stage.classifier.heads[-1].weight[TUMOUR_B, 0] = torch.nan
    with pytest.raises(ValueError, match="not finite") as caught:
        stage.annotate(batch(tags([STROMA])))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("maps", list(MapSource))
def test_what_is_learnt_from_and_annotated_is_finite_with_a_class_that_no_tile_shows(maps):
    """A real classifier, some steps, a class without a positive tag."""
    present = tags([GLASS, STROMA], [STROMA], [GLASS], [TUMOUR_A, STROMA])
    stage, tiles = made(maps=maps, survey=present), batch(present)
    stage._trainer = SimpleNamespace(global_step=0)
    optimizer = torch.optim.Adam(stage.parameters(), lr=1e-3)
    unseen = [head.weight[TUMOUR_B].clone() for head in stage.classifier.heads]
    for _ in range(3):
        optimizer.zero_grad()
        loss = stage.train().training_step({stage.stream: tiles}, 0)
        torch.autograd.backward(loss)
        optimizer.step()
        assert torch.isfinite(loss)
    for head, before in zip(stage.classifier.heads, unseen, strict=True):
        assert torch.equal(head.weight[TUMOUR_B], before)
        assert not torch.equal(head.weight[STROMA], before)
    layers = stage.eval().annotate(tiles)
    assert not (layers == TUMOUR_B).any()


# White background, and masks that were bought.


def painted(present):
    """Tiles whose upper left quarter is white, with a white patch of two pixels elsewhere."""
    tiles = batch(present)
    tiles.images[:, :, :8, :8] = 230
    tiles.images[:, :, 12, 12:14] = 230
    return tiles, torch.arange(PX)[:, None].lt(8) & torch.arange(PX).lt(8)


@pytest.mark.parametrize("kind", [TagClassification, Fill])
@pytest.mark.parametrize(("label", "value"), [(None, IGNORE_LABEL), ("glass", GLASS)])
def test_white_background_is_the_same_in_every_layer(kind, label, value):
    present = tags([STROMA, TUMOUR_A], [TUMOUR_B])
    tiles, is_white = painted(present)
    stages = [made(kind, white) for white in (None, replace(WHITE, label=label))]
    if kind is TagClassification:
        stages = [with_maps(stage, random_maps(2)) for stage in stages]
    plain, white = (stage.annotate(tiles) for stage in stages)
    assert not torch.isin(plain, torch.tensor([value])).any()
    assert (white[:, :, is_white] == value).all()
    assert torch.equal(white[:, :, ~is_white], plain[:, :, ~is_white])  # a patch that is too small is left alone
    assert (white[1, :, ~is_white] == TUMOUR_B).all()  # but for white, a single tag is the whole tile


@pytest.mark.parametrize("kind", [TagClassification, Fill])
def test_masks_that_were_bought_take_the_place_of_all_layers(kind):
    present = tags([STROMA, TUMOUR_A], [STROMA, TUMOUR_A], [GLASS, STROMA])
    masks = torch.full((3, PX, PX), IGNORE_LABEL, dtype=torch.uint8)
    masks[1] = torch.randint(0, K, (PX, PX), generator=torch.Generator().manual_seed(1))
    masks[1, :4] = IGNORE_LABEL  # not annotated, and so not learnt from
    tiles, _ = painted(present)
    stage = made(kind, replace(WHITE, label="glass"))
    if kind is TagClassification:
        with_maps(stage, random_maps(3))
    without, bought = stage.annotate(tiles), stage.annotate(replace(tiles, masks=masks))
    assert torch.equal(bought[1], masks[1].expand_as(bought[1]))
    assert torch.equal(bought[[0, 2]], without[[0, 2]])
    assert bought.dtype == torch.uint8


# The control.


def test_each_tile_is_filled_with_its_rarest_class():
    """Counted over all tiles: stroma twice, tumour_a and tumour_b once, glass thrice."""
    stage = made(Fill, survey=tags([GLASS, STROMA], [GLASS, STROMA, TUMOUR_B], [GLASS, TUMOUR_A]))
    layers = stage.annotate(batch(tags([GLASS, STROMA], [GLASS], [TUMOUR_A, TUMOUR_B], [])))
    assert (layers.shape, layers.dtype) == ((4, 1, PX, PX), torch.uint8)
    assert [mask.unique().tolist() for mask in layers] == [[STROMA], [GLASS], [TUMOUR_A], [IGNORE_LABEL]]


def test_there_is_nothing_to_learn_in_filling():
    stage = made(Fill)
    loss = stage.training_step({stage.stream: batch(tags([GLASS]))}, 0)
    torch.autograd.backward(loss)
    assert [parameter.grad.item() for parameter in stage.parameters()] == [0.0]
