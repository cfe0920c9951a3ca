"""Weak labels: the classes that a diagnosis excludes, and the tags of a tile."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from tissuebench.datasets.types import ClassMap, Supervision
from tissuebench.datasets.weak_labels import excluded_classes, keep_at_most, tags_of_counts, tags_of_mask

CLASSES = ClassMap(
    ("glass", "stroma", "tumour_a", "tumour_b", "tumour_c"),
    ((0, 0, 0), (1, 1, 1), (2, 2, 2), (3, 3, 3), (4, 4, 4)),
    {"A": ("tumour_a",), "B": ("tumour_b",), "BC": ("tumour_b", "tumour_c")},
)


def names(flags):
    return {name for name, flag in zip(CLASSES.names, flags, strict=True) if flag}


@pytest.mark.parametrize(
    ("diagnoses", "excluded"),
    [
        (("A",), {"tumour_b", "tumour_c"}),
        (("B",), {"tumour_a", "tumour_c"}),
        (("BC",), {"tumour_a"}),
        (("A", "B"), {"tumour_c"}),
        (("A", "BC"), set()),  # a mixed diagnosis that covers all of T
        (("BC", "A"), set()),
        ((), set()),
    ],
)
def test_a_diagnosis_excludes_the_classes_of_the_others(diagnoses, excluded):
    flags = excluded_classes(diagnoses, CLASSES)
    assert (flags.dtype, flags.shape) == (np.bool_, (5,))
    assert names(flags) == excluded


@given(st.lists(st.sampled_from(sorted(CLASSES.diagnoses)), max_size=3))
def test_a_diagnosis_never_excludes_what_it_allows_nor_what_all_cases_share(diagnoses):
    """The inverted label (tumour A excludes tumour A) is the bug that this guards against."""
    excluded = names(excluded_classes(diagnoses, CLASSES))
    assert not excluded & {name for diagnosis in diagnoses for name in CLASSES.diagnoses[diagnosis]}
    assert not excluded & {"glass", "stroma"}


def test_no_case_shows_a_class_that_its_diagnosis_excludes(tiny_data):
    for slide_id in tiny_data.store.slides:
        excluded = excluded_classes(tiny_data.store.withheld.diagnosis(slide_id), tiny_data.store.class_map)
        pixels = np.array(tiny_data.store.withheld.class_pixels(slide_id))
        assert excluded.sum() == 1
        assert pixels[excluded].sum() == 0
        assert (pixels[~excluded] > 0).all()


def test_tags_by_hand():
    mask = np.full((10, 20), 255, dtype=np.uint8)
    assert not tags_of_mask(mask, 4).any()
    mask[0, :10] = 1
    mask[1, :] = 3
    assert tags_of_mask(mask, 4).tolist() == [False, True, False, True]
    mask[:] = 0
    mask[0, 0] = 2  # half a per cent of the tile
    assert tags_of_mask(mask, 4).tolist() == [True, False, False, False]
    assert tags_of_mask(mask, 4, min_share=0.005).tolist() == [True, False, True, False]


@given(arrays(np.uint8, (6, 6), elements=st.sampled_from([0, 1, 2, 255])), st.floats(0, 1))
def test_tags_are_shares_of_the_annotated_pixels(mask, min_share):
    annotated = (mask != 255).sum()
    expected = [bool((mask == k).any() and (mask == k).sum() >= min_share * annotated) for k in range(3)]
    assert tags_of_mask(mask, 3, min_share).tolist() == expected


@given(arrays(np.int64, st.tuples(st.integers(0, 5), st.just(4)), elements=st.integers(0, 300)))
def test_tags_of_counts_are_those_of_each_tile(counts):
    flags = tags_of_counts(counts)
    assert (flags.shape, flags.dtype) == (counts.shape, np.bool_)
    for row, shown in zip(counts, flags, strict=True):
        mask = np.repeat(np.arange(4), row).astype(np.uint8)
        assert tags_of_mask(mask, 4).tolist() == shown.tolist() == [c >= max(1, sum(row) / 100) for c in row]


@pytest.mark.parametrize("count", [1, 3, 5, 9])
def test_fewer_excluded_classes_are_the_same_ones_whenever_asked(count):
    excluded = np.array([False, True, True, False, True, True, True])
    kept = keep_at_most(excluded, count, seed=4)
    assert kept.sum() == min(count, 5)
    assert not (kept & ~excluded).any()
    np.testing.assert_array_equal(kept, keep_at_most(excluded, count, seed=4))
    assert excluded.sum() == 5  # the argument is left alone
    if count < 5:
        assert len({keep_at_most(excluded, count, seed).tobytes() for seed in range(30)}) > 1


def test_supervision_and_class_maps_are_checked():
    assert [kind.value for kind in Supervision] == ["none", "diagnosis", "tags", "masks"]
    assert CLASSES.dependent == (False, False, True, True, True)
    for wrong in ({"names": ("a", "a")}, {"names": ("a",)}, {"colors": ((0, 0, 0),)}, {"diagnoses": {"A": ("z",)}}):
        with pytest.raises(ValueError, match=r"class|colour"):
            ClassMap(**{"names": ("a", "b"), "colors": ((0, 0, 0), (1, 1, 1)), **wrong})
