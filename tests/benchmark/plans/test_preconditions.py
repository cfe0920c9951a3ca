"""What a run needs is looked up before anything is trained."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tissuebench.datasets.splits import Split
from tissuebench.datasets.types import Supervision
from tissuebench.errors import ConfigError
from tissuebench.plans import preconditions
from tissuebench.plans.preconditions import check_objects, check_part, missing_labels
from tissuebench.plans.schema import EvaluationSettings
from tissuebench.plans.trial import identity_of_evaluation

MASKS, TAGS = frozenset({Supervision.MASKS}), frozenset({Supervision.TAGS})


@pytest.fixture
def unannotated(tiny_data, monkeypatch):
    """Return a function that takes the annotation of some patients away."""

    def take_away(*patients):
        store = tiny_data.store
        tiles, pixels = store.withheld.tile_class_pixels, store.withheld.class_pixels

        def is_blank(slide_id):
            return store.slides[slide_id].patient_id in patients

        def blank_tiles(slide_id):
            return tiles(slide_id) * (not is_blank(slide_id))

        def blank_pixels(slide_id):
            return tuple(count * (not is_blank(slide_id)) for count in pixels(slide_id))

        monkeypatch.setattr(store.withheld, "tile_class_pixels", blank_tiles)
        monkeypatch.setattr(store.withheld, "class_pixels", blank_pixels)

    return take_away


def test_a_part_without_an_annotated_patient_cannot_be_scored(tiny_data, unannotated):
    store, split = tiny_data.store, tiny_data.split
    for part in ("val", "test"):
        check_part(store, split, part)
    unannotated(*split.patients("val")[1:], *split.patients("test")[1:])
    check_part(store, split, "val")  # one is enough
    unannotated(*split.patients("val"))
    with pytest.raises(ConfigError) as refused:
        check_part(store, split, "val")
    assert str(refused.value) == (
        "dataset 'tiny': evaluation.part: none of the 2 patients of part 'val' is annotated, so masks cannot be scored; "
        "set evaluation.part=test or annotate one"
    )
    unannotated(*split.patients("test"))
    with pytest.raises(ConfigError, match=r"none of the 3 patients of part 'test' .* scored; annotate one$"):
        check_part(store, split, "test")


def test_a_part_without_patients_is_told_with_those_that_have_some(tiny_data):
    split = Split("s", {**tiny_data.split.parts, "val": ()})
    with pytest.raises(ConfigError, match=r"^dataset 'tiny': evaluation\.part: unknown part 'val'.*known: test, train"):
        check_part(tiny_data.store, split, "val")


def test_classes_of_objects_must_be_those_of_a_dataset_of_slides_that_fit_into_memory(tiny_data, monkeypatch):
    stores, splits, names = [tiny_data.store], [tiny_data.split], tiny_data.store.class_map.names
    check_objects(stores, splits, EvaluationSettings(objects=(names[1],)))
    with pytest.raises(ConfigError, match=r"^evaluation\.objects: unknown class 'gland'.*known: "):
        check_objects(stores, splits, EvaluationSettings(objects=(names[1], "gland")))
    monkeypatch.setattr(preconditions, "OBJECTS_MAX_PX", 64 * 96 - 1)
    with pytest.raises(
        ConfigError, match=r"^dataset 'tiny': evaluation\.objects: slide '.*' has 64 x 96 px, and objects"
    ):
        check_objects(stores, splits, EvaluationSettings(objects=(names[1],)))
    check_objects(stores, splits, EvaluationSettings())


def test_objects_are_part_of_the_identity_only_where_there_are_any():
    """So trials from before this setting existed keep their ids."""
    assert identity_of_evaluation(EvaluationSettings()) == {
        "part": "test",
        "window_px": None,
        "overlap": 0.25,
        "tta": "none",
        "boundary_um": 5.0,
    }
    one = identity_of_evaluation(EvaluationSettings(objects=("nucleus", "gland")))
    assert one["objects"] == ["gland", "nucleus"]
    assert one == identity_of_evaluation(EvaluationSettings(objects=("gland", "nucleus")))


def test_labels_that_are_there_are_not_missing(tiny_data):
    for method in ("supervised", "complementary", "multilayer_pseudo"):
        assert missing_labels(method, MASKS | TAGS, tiny_data.store, tiny_data.split) == ""


@pytest.mark.parametrize(("kinds", "column"), [(MASKS, "annotation"), (TAGS, "tags")])
def test_a_method_without_its_labels_is_told(tiny_data, unannotated, kinds, column):
    unannotated(*tiny_data.split.patients("train"))
    (kind,) = kinds
    lacks = missing_labels("multilayer_pseudo", kinds, tiny_data.store, tiny_data.split)
    assert lacks.startswith(f"dataset 'tiny': method 'multilayer_pseudo' learns from {kind}, which no patient")
    assert f"column '{column}' of the manifest" in lacks
    assert lacks.endswith("or leave the method out")


def test_a_method_of_diagnoses_needs_one_that_rules_out_a_class(tiny_data, monkeypatch):
    store, split = tiny_data.store, tiny_data.split
    everything = {"A": ("tumour_a", "tumour_b"), "B": ("tumour_b", "tumour_a")}
    with monkeypatch.context() as patch:
        patch.setattr(store, "class_map", replace(store.class_map, diagnoses=everything))
        lacks = missing_labels("complementary", MASKS, store, split)
    assert lacks == (
        "dataset 'tiny': method 'complementary' learns from the classes that a diagnosis rules out, and no diagnosis of "
        "the training part rules out any; list what each one allows under 'diagnoses' of dataset.yaml, or leave the method "
        "out"
    )
    train = set(split.patients("train"))
    known = {name: store.withheld.diagnosis(name) for name, s in store.slides.items() if s.patient_id not in train}
    monkeypatch.setattr(store.withheld, "diagnosis", lambda slide_id: known.get(slide_id, ()))
    lacks = missing_labels("complementary", MASKS, store, split)
    assert "learns from diagnoses, which no patient of the training part has; fill in column 'diagnosis'" in lacks
    assert missing_labels("supervised", MASKS, store, split) == ""
