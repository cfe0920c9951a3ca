"""Patients that nobody annotated, cases without a mask, and the share of each patient in a score."""

import numpy as np
import pytest

from tissuebench.errors import DataError
from tissuebench.results.metrics import boundary_f1, miou
from tissuebench.results.tables.panel import panels

CLASSES = ("stroma", "HCC", "CCA")
ANNOTATED = [np.array([[50, 10, 0], [0, 40, 0], [0, 0, 0]]), np.array([[50, 0, 5], [0, 0, 5], [0, 0, 25]])]


def results(make_trial, more=(), *, annotated=ANNOTATED, areas=((5, 40, 2), (5, 3, 60)), diagnoses=("HCC", "CCA")):
    """One trial of two annotated patients, and further ones without a mask: (diagnosis, areas)."""
    counts = [*annotated, *[np.zeros((3, 3), dtype=int)] * len(more)]
    return make_trial(
        counts=np.array(counts),
        patient_ids=tuple(f"p{i}" for i in range(len(counts))),
        classes=CLASSES,
        slide_diagnoses=(*diagnoses, *(diagnosis for diagnosis, _ in more)),
        areas=np.array([*areas, *(area for _, area in more)]),
    )


def panel_and_scores(trial):
    (panel,) = panels([trial])
    (cell,) = panel.cells.values()
    scores = cell.scores(np.ones((1, len(panel.patients))))[0, 0]
    return panel, dict(zip(panel.metrics, scores.tolist(), strict=True))


def test_patients_without_a_mask_are_cases_and_no_pixels(make_trial):
    before, old = panel_and_scores(results(make_trial))
    more = [("HCC", (0, 90, 10)), ("HCC", (0, 10, 90)), ("CCA", (0, 20, 80)), ("CCA", (0, 30, 70))]
    panel, new = panel_and_scores(results(make_trial, more))
    assert panel.n_pixel_patients == before.n_pixel_patients == 2 == panel.n_of("miou") == panel.n_of("iou/HCC")
    assert {name for name in old if old[name] != pytest.approx(new[name], nan_ok=True)} == {"balanced_accuracy", "auc"}
    assert (before.n_cases, panel.n_cases, panel.n_case_patients) == (2, 6, 6)
    assert panel.n_of("balanced_accuracy") == panel.n_of("auc") == 6
    assert panel.metrics[-2:] == ("balanced_accuracy", "auc")
    assert old["balanced_accuracy"] == old["auc"] == 1
    assert new["balanced_accuracy"] == pytest.approx((2 / 3 + 1) / 2)
    assert new["auc"] == pytest.approx(7 / 9)  # shares of HCC: 40/42, .9 and .1 against 3/63, .2, .3
    assert panel.case_notes() == []


@pytest.mark.parametrize("first", ["HCC", "CCA"])
def test_cases_without_any_area_tell_nothing_apart(make_trial, first):
    """They once went to the diagnosis declared first, which moved the score to .1 or to .9."""
    more = [(first, (70, 0, 0))] * 4
    panel, score = panel_and_scores(results(make_trial, more))
    assert score["balanced_accuracy"] == pytest.approx((1 + (1 + 4 * 0.5) / 5) / 2)
    assert panel.case_notes() == [
        "toy: of 6 case-level diagnoses over all trials 0 were ties and 4 had no diagnostic area (p2, p3, p4, p5); "
        "they count in equal parts for each of the tied diagnoses"
    ]


def test_of_many_cases_without_any_area_the_first_are_named(make_trial):
    panel, _ = panel_and_scores(results(make_trial, [("HCC", (70, 0, 0))] * 7))
    assert "7 had no diagnostic area (p2, p3, p4, p5, p6, p7, ...); " in panel.case_notes()[0]


def test_slides_without_tissue_or_diagnosis_are_left_out_and_counted(make_trial):
    more = [("HCC", (0, 0, 0)), ("", (0, 0, 0)), ("HCC;CCA", (0, 0, 0)), ("CCA", (0, 1, 1))]
    panel, _ = panel_and_scores(results(make_trial, more))
    assert (panel.n_cases, panel.cases.n_undiagnosed, panel.cases.n_without_tissue) == (3, 2, 1)
    tied, undiagnosed, bare = panel.case_notes()
    assert "of 3 case-level diagnoses over all trials 1 were ties and 0 had no diagnostic area" in tied
    assert "2 test slides with no or a mixed diagnosis" in undiagnosed
    assert "1 test slides with a diagnosis but no tissue" in bare


def test_the_slides_of_a_case_are_called_together(make_trial):
    trial = make_trial(
        counts=np.array([*ANNOTATED, ANNOTATED[0]]),
        patient_ids=("p0", "p1", "p0"),
        classes=CLASSES,
        slide_diagnoses=("HCC", "CCA", "HCC"),
        areas=[(0, 10, 30), (0, 0, 5), (0, 50, 0)],
    )
    panel, score = panel_and_scores(trial)
    assert (panel.n_cases, panel.n_pixel_patients) == (2, 2) and score["balanced_accuracy"] == 1


def test_patients_without_a_mask_have_no_share_in_pixel_scores(make_trial):
    more = [("HCC", (0, 90, 10)), ("CCA", (0, 20, 80)), ("", (0, 0, 0))]
    panel, _ = panel_and_scores(results(make_trial, more, annotated=[np.diag([60, 40, 0]), np.diag([20, 0, 80])]))
    (cell,) = panel.cells.values()
    shares = dict(zip(panel.metrics, cell.shares().T.tolist(), strict=True))
    for name in ("pixel_accuracy", "fwiou", "ece", "area_error"):
        assert shares[name] == [0.5, 0.5, 0, 0, 0], name
    assert shares["dice/stroma"] == shares["iou/stroma"] == [0.75, 0.25, 0, 0, 0]
    assert shares["iou/HCC"] == [1, 0, 0, 0, 0] and shares["iou/CCA"] == [0, 1, 0, 0, 0]
    assert shares["specificity/HCC"] == [0.375, 0.625, 0, 0, 0]  # 60 and 100 pixels of other classes
    np.testing.assert_allclose(shares["miou"], [1.75 / 3, 1.25 / 3, 0, 0, 0])
    np.testing.assert_allclose(shares["boundary_f1"], shares["miou"])  # boundaries as long as their class here
    for name in ("balanced_accuracy", "auc"):
        assert shares[name] == [0.25, 0.25, 0.25, 0.25, 0]


def test_shares_are_those_of_weights(make_trial):
    """The weighted mean over cases, and a score of one class, move with the weights as the shares say."""
    panel, _ = panel_and_scores(results(make_trial, [("HCC", (0, 1, 9))] * 2))
    (cell,) = panel.cells.values()
    column, step = panel.metrics.index("balanced_accuracy"), 1e-6
    ones = np.ones((1, len(panel.patients)))
    moved = cell.scores(ones + step * np.eye(len(panel.patients)))[:, 0, column] - cell.scores(ones)[0, 0, column]
    own = np.array([1.0, 1.0, 0.0, 0.0])
    recall = np.array([1 / 3, 1, 1 / 3, 1 / 3])
    np.testing.assert_allclose(moved / step, cell.shares()[:, column] * (own - recall), atol=1e-5)


def test_a_column_without_truth_is_zero_and_others_add_up_to_one(make_trial):
    trial = make_trial(rng=np.random.default_rng(0), classes=(*CLASSES, "nowhere"))
    counts = trial.counts.copy()
    counts[:, 3] = 0
    edges = np.zeros((12, 4, 4), dtype=np.int64)
    (panel,) = panels([make_trial(counts=counts, boundaries=edges, classes=(*CLASSES, "nowhere"))])
    (cell,) = panel.cells.values()
    total = dict(zip(panel.metrics, cell.shares().sum(0).tolist(), strict=True))
    empty = {name for name in total if name.startswith("boundary_f1") or name.endswith("/nowhere")}
    assert {name for name, value in total.items() if value == 0} == empty
    assert all(value == pytest.approx(1) for name, value in total.items() if name not in empty)


def test_a_patients_own_score_is_over_the_classes_of_its_own_truth(make_trial):
    wrong = ANNOTATED[0] + np.array([[0, 0, 1], [0, 0, 0], [0, 0, 0]])
    panel, _ = panel_and_scores(results(make_trial, [("HCC", (0, 9, 1))], annotated=[wrong, ANNOTATED[1]]))
    (cell,) = panel.cells.values()
    own = cell.scores(np.eye(3))[:, 0, panel.metrics.index("miou")]
    assert own[0] == pytest.approx((50 / 61 + 40 / 50) / 2) and own[0] == miou(wrong)
    assert np.isnan(own[2])
    assert np.isnan(boundary_f1(np.array([0, 0, 1, 0])))


def test_trials_of_other_masks_or_tissue_cannot_stand_in_one_table(make_trial):
    one = results(make_trial, [("HCC", (0, 9, 1))])
    for other, what in (
        (results(make_trial, [("HCC", (0, 0, 0))]), "test slides with tissue"),
        (results(make_trial, [("HCC", (0, 9, 1))], annotated=[ANNOTATED[0], np.zeros((3, 3), int)]), "annotated test"),
    ):
        with pytest.raises(DataError, match=f"have different {what}"):
            panels([one, other])
