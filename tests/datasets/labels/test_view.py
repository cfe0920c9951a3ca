"""The label view: opens labels that were bought and that the method consumes, and withholds all others."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import tissuebench
from tests.datasets.labels.partial_stores import ALL_KINDS
from tissuebench.datasets.labels.draw_budget import draw_budget
from tissuebench.datasets.labels.view import LabelView
from tissuebench.datasets.types import Supervision, Tile
from tissuebench.datasets.weak_labels import tags_of_mask
from tissuebench.errors import WithheldLabelError


@pytest.fixture
def budget(tiny_data):
    return draw_budget(tiny_data.store, tiny_data.split, "masks:3p", 0)


@pytest.fixture
def training(tiny_data, budget):
    return lambda kinds: LabelView.for_training(tiny_data.store, tiny_data.split, budget, frozenset(kinds))


def slides_of(tiny_data, patients):
    return [slide.slide_id for slide in tiny_data.store.slides.values() if slide.patient_id in set(patients)]


def test_the_masks_that_were_bought_and_no_other(tiny_data, budget, training):
    view = training({Supervision.MASKS})
    assert {slide.patient_id for slide in view.mask_slides} == set(budget.patients)
    assert [slide.patient_id for slide in view.slides] == list(tiny_data.split.patients("train"))
    for slide_id in tiny_data.store.slides:
        tile = Tile(slide_id, 32, 64)
        if tiny_data.store.slides[slide_id].patient_id in budget.patients:
            truth = np.asarray(Image.open(tiny_data.root / f"{slide_id}_mask.png"))
            assert np.array_equal(view.mask(tile, 32, 32), truth[32:64, 64:96])
            assert np.array_equal(view.tags(tile, 32), tags_of_mask(truth[32:64, 64:96], 4))
        else:
            for ask in (lambda tile=tile: view.mask(tile, 32, 32), lambda tile=tile: view.tags(tile, 32)):
                with pytest.raises(WithheldLabelError, match=slide_id):
                    ask()


@pytest.mark.parametrize("part", ["val", "test"])
def test_no_label_of_another_part_is_open(tiny_data, training, part):
    view = training(ALL_KINDS)
    for slide_id in slides_of(tiny_data, tiny_data.split.patients(part)):
        tile = Tile(slide_id, 0, 0)
        for ask in (
            lambda tile=tile: view.mask(tile, 32, 32),
            lambda tile=tile: view.tags(tile, 32),
            lambda slide_id=slide_id: view.diagnosis(slide_id),
            lambda slide_id=slide_id: view.excluded(slide_id),
        ):
            with pytest.raises(WithheldLabelError, match=slide_id):
                ask()


@pytest.mark.parametrize("part", ["val", "test"])
def test_a_budget_that_names_patients_of_another_part_opens_nothing(tiny_data, budget, part):
    greedy = replace(budget, patients=tiny_data.split.patients(part))
    view = LabelView.for_training(tiny_data.store, tiny_data.split, greedy, ALL_KINDS)
    assert view.mask_slides == ()
    with pytest.raises(WithheldLabelError):
        view.mask(Tile(slides_of(tiny_data, greedy.patients)[0], 0, 0), 8, 8)


def test_diagnoses_are_open_for_all_training_cases_to_a_method_that_consumes_them(tiny_data, training):
    view = training({Supervision.DIAGNOSIS})
    for slide in view.slides:
        (diagnosis,) = view.diagnosis(slide.slide_id)
        assert view.excluded(slide.slide_id).tolist() == [False, False, diagnosis == "B", diagnosis == "A"]


@pytest.mark.parametrize(
    ("kinds", "refused"),
    [
        ({Supervision.MASKS}, {"diagnosis", "excluded"}),
        ({Supervision.DIAGNOSIS}, {"mask", "tags"}),
        ({Supervision.TAGS}, {"mask", "diagnosis", "excluded"}),
        (set(), {"mask", "tags", "diagnosis", "excluded"}),
        (ALL_KINDS, set()),
    ],
)
def test_kinds_that_a_method_does_not_consume_are_refused(training, kinds, refused):
    view = training(kinds)
    slide_id = training(ALL_KINDS).mask_slides[0].slide_id
    asked = {
        "mask": lambda: view.mask(Tile(slide_id, 0, 0), 32, 32),
        "tags": lambda: view.tags(Tile(slide_id, 0, 0), 32),
        "diagnosis": lambda: view.diagnosis(slide_id),
        "excluded": lambda: view.excluded(slide_id),
    }
    for name, ask in asked.items():
        if name in refused:
            with pytest.raises(WithheldLabelError, match="not among the labels this method consumes"):
                ask()
        else:
            ask()


@pytest.mark.parametrize(("part", "others"), [("test", ("train", "val")), ("val", ("train", "test"))])
def test_evaluation_sees_its_part_and_no_other(tiny_data, part, others):
    view = LabelView.for_evaluation(tiny_data.store, tiny_data.split, part)
    assert [slide.patient_id for slide in view.slides] == list(tiny_data.split.patients(part))
    for slide in view.slides:
        truth = np.asarray(Image.open(tiny_data.root / f"{slide.slide_id}_mask.png"))
        assert np.array_equal(view.mask(Tile(slide.slide_id, 0, 0), slide.height, slide.width), truth)
        assert len(view.diagnosis(slide.slide_id)) == 1
    for other in others:
        for slide_id in slides_of(tiny_data, tiny_data.split.patients(other)):
            with pytest.raises(WithheldLabelError, match="not in this part"):
                view.mask(Tile(slide_id, 0, 0), 8, 8)
            with pytest.raises(WithheldLabelError, match="not in this part"):
                view.diagnosis(slide_id)


def test_withheld_labels_are_named_behind_the_door_only():
    """Whoever else reaches past the door is found here before a reviewer has to."""
    benchmark = Path(tissuebench.__file__).resolve().parent
    root = benchmark.parent
    behind = ("store/tile_store", "store/verify", "labels/view", "labels/draw_budget", "ingest/ingest")
    allowed = {f"datasets/{name}.py" for name in behind}
    allowed |= {
        "benchmark/inspection/facts.py",
        "benchmark/inspection/tiles.py",
        "benchmark/perf/tiles.py",
    }  # a page for people, a benchmark: no training
    pattern = re.compile(r"\.withheld\b|\bwithheld\s*\(|labels/annotation|WithheldLabels\b|['\"]withheld['\"]")
    files = [
        path for folder in ("benchmark", "methods", "datasets", "results") for path in (root / folder).rglob("*.py")
    ]
    assert len(files) > 40
    naming = {path.relative_to(root).as_posix() for path in files if pattern.search(path.read_text())}
    assert naming <= allowed
    assert {"datasets/store/tile_store.py", "datasets/labels/view.py"} <= naming


def test_all_excluded_classes_are_kept_unless_said(tiny_data):
    view = LabelView.for_evaluation(tiny_data.store, tiny_data.split, "test")
    for slide in view.slides:
        np.testing.assert_array_equal(view.excluded(slide.slide_id), view.excluded(slide.slide_id, 1, 3))
        assert view.excluded(slide.slide_id).sum() == 1
