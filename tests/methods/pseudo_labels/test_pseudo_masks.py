"""From activation maps to masks: golden masks of the published code, and what every way of masking promises."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.properties import examples
from tissuebench.datasets.types import IGNORE_LABEL
from tissuebench.methods.pseudo_labels.pseudo_masks import (
    Absent,
    Scale,
    agreement,
    fill,
    min_max,
    restricted_argmax,
    shared_threshold,
)

GOLDEN = Path(__file__).parents[2] / "golden"
WHITE = 4


@pytest.fixture(scope="module")
def arrays():
    with np.load(GOLDEN / "mlps_pseudomask.npz", allow_pickle=False) as arrays:
        return {key: torch.from_numpy(arrays[key]) for key in arrays.files}


def tags_of(text):
    return torch.tensor([[digit == "1" for digit in text]])


def test_golden_scale(arrays):
    torch.testing.assert_close(min_max(arrays["cam"][None], Scale.JOINT)[0], arrays["cam_norm"], rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("absent", list(Absent))
@pytest.mark.parametrize("text", ["1101", "0100", "1111", "0010"])
def test_golden_masks(arrays, text, absent):
    mask = restricted_argmax(min_max(arrays["cam"][None], Scale.JOINT), tags_of(text), absent)[0]
    white = arrays["bg_mask"] > 0
    assert white.any()
    with_white = torch.where(white, IGNORE_LABEL, mask)
    published = arrays[f"mask_luad_{text}"]
    assert torch.equal(with_white, torch.where(published == WHITE, IGNORE_LABEL, published))
    assert torch.equal(mask, arrays[f"mask_bcss_{text}"])


def test_golden_tie_of_a_present_class_that_scores_zero(arrays):
    scores, tags = min_max(arrays["tie_cam"][None], Scale.JOINT), tags_of("0100")
    published = arrays["tie_mask_bcss_0100_code"]
    assert published[24, 24] == 0
    assert torch.equal(restricted_argmax(scores, tags, Absent.ZERO)[0], published)
    assert (restricted_argmax(scores, tags)[0] == 1).all()


@st.composite
def tiles(draw, classes=4, n=3):
    seed, size = draw(st.integers(0, 2**31)), draw(st.integers(1, 6))
    generator = torch.Generator().manual_seed(seed)
    cams = torch.randn(n, classes, size, 5, generator=generator) * draw(st.sampled_from([1e-6, 1.0, 1e6]))
    if draw(st.booleans()):
        cams = cams.round()  # many ties
    tags = torch.rand(n, classes, generator=generator) < draw(st.sampled_from([0.0, 0.3, 0.6, 1.0]))
    return cams, tags


@examples(50)
@given(tiles(), st.sampled_from(Scale))
def test_scaled_maps_reach_from_0_to_1_and_keep_their_order(tile, scale):
    cams, _ = tile
    scaled = min_max(cams, scale)
    over = (1, 2, 3) if scale is Scale.JOINT else (2, 3)
    spread = cams.amax(over) > cams.amin(over)
    assert torch.equal(scaled.amin(over), torch.zeros_like(spread, dtype=torch.float32))
    assert torch.equal(scaled.amax(over), spread.float())
    before_and_after = (x.flatten(1) if scale is Scale.JOINT else x.flatten(2).flatten(0, 1) for x in (cams, scaled))
    for before, after in zip(*before_and_after, strict=True):
        assert (after[before.argsort()].diff() >= 0).all()


@pytest.mark.parametrize("scale", list(Scale))
@pytest.mark.parametrize("value", [0.0, -3.5, 1e30])
def test_a_constant_stack_is_zero(scale, value):
    assert (min_max(torch.full((2, 3, 4, 4), value), scale) == 0).all()


def test_scales_differ_in_what_they_compare():
    cams = torch.tensor([[[[0.0, 10.0]], [[2.0, 4.0]]]])
    assert min_max(cams, Scale.JOINT)[0, 1, 0].tolist() == pytest.approx([0.2, 0.4])
    assert min_max(cams, Scale.PER_CLASS)[0, 1, 0].tolist() == [0, 1]


@examples(60)
@given(tiles(), st.sampled_from(Scale))
def test_masks_hold_only_present_classes_and_are_the_best_of_them(tile, scale):
    cams, tags = tile
    scores = min_max(cams, scale)
    masks = restricted_argmax(scores, tags)
    assert masks.dtype == torch.uint8
    for mask, score, present in zip(masks, scores, tags, strict=True):
        if not present.any():
            assert (mask == IGNORE_LABEL).all()
            continue
        among = present.nonzero().flatten()
        assert torch.isin(mask.long(), among).all()
        if len(among) == 1:
            assert (mask == among[0]).all()
        best = score[among].amax(dim=0)
        assert torch.equal(score.gather(0, mask.long()[None])[0], best)
        below = torch.stack([(score[k] == best) & present[k] & (mask > k) for k in range(4)])
        assert not below.any()  # the lowest index at ties


def test_ties_go_to_the_lowest_index():
    masks = restricted_argmax(torch.ones(1, 4, 2, 2), torch.tensor([[False, True, False, True]]))
    assert (masks == 1).all()


def test_tiles_without_tags_are_ignored_in_either_form():
    for absent in Absent:
        assert (restricted_argmax(torch.rand(1, 3, 2, 2), torch.zeros(1, 3, dtype=torch.bool), absent) == 255).all()


class TestSharedThreshold:
    shared = torch.tensor([True, True, False, False])

    @examples(60)
    @given(tiles(), st.floats(0, 1))
    def test_formula(self, tile, threshold):
        cams, tags = tile
        scores = min_max(cams, Scale.PER_CLASS)
        masks = shared_threshold(cams, tags, self.shared, threshold)
        assert masks.dtype == torch.uint8
        for sample, mask in enumerate(masks):
            groups = [(tags[sample] & group).nonzero().flatten().tolist() for group in (self.shared, ~self.shared)]
            for y in range(mask.shape[0]):
                for x in range(mask.shape[1]):
                    score = scores[sample, :, y, x]
                    best = [max(group, key=lambda k: (score[k].item(), -k), default=None) for group in groups]
                    if None in best:
                        expected = best[0] if best[1] is None else best[1]
                        expected = IGNORE_LABEL if expected is None else expected
                    else:
                        expected = best[0] if score[best[0]] > threshold else best[1]
                    assert mask[y, x] == expected

    def test_a_higher_threshold_leaves_less_to_the_shared_classes(self):
        cams = torch.randn(2, 4, 9, 9, generator=torch.Generator().manual_seed(1))
        tags = torch.ones(2, 4, dtype=torch.bool)
        counts = [int((shared_threshold(cams, tags, self.shared, t / 4) < 2).sum()) for t in range(5)]
        assert counts == sorted(counts, reverse=True)
        assert counts[0] > 0 and counts[-1] == 0


def test_where_all_layers_agree():
    masks = torch.tensor([[[[0, 1, 2]], [[0, 1, 1]], [[0, 2, 2]]]], dtype=torch.uint8)
    assert agreement(masks).tolist() == [[[0, IGNORE_LABEL, IGNORE_LABEL]]]
    assert agreement(masks).dtype == torch.uint8
    assert agreement(masks.long()).dtype == torch.int64
    assert torch.equal(agreement(masks[:, :1]), masks[:, 0])


def test_what_any_layer_ignores_is_ignored():
    masks = torch.tensor([[[[IGNORE_LABEL, IGNORE_LABEL]], [[1, IGNORE_LABEL]]]], dtype=torch.uint8)
    assert (agreement(masks) == IGNORE_LABEL).all()


def test_the_rarest_class_fills_a_tile():
    counts = torch.tensor([9, 3, 5, 3])
    tags = torch.tensor([[1, 0, 1, 0], [1, 1, 1, 1], [0, 0, 0, 1], [0, 0, 0, 0]]).bool()
    filled = fill(tags, counts)
    assert filled.tolist() == [2, 1, 3, IGNORE_LABEL]
    assert filled.dtype == torch.uint8
