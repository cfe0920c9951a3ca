import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from tissuebench.results import metrics

PIXEL = (metrics.iou, metrics.dice, metrics.miou, metrics.fwiou, metrics.pixel_accuracy)
matrices = st.integers(1, 5).flatmap(lambda k: arrays(np.int64, (k, k), elements=st.integers(0, 50)))


def confusion(truth, predicted, k):
    keep = truth < k
    return np.bincount(truth[keep] * k + predicted[keep], minlength=k * k).reshape(k, k)


@pytest.mark.parametrize(("prefix", "suffix"), [("", ""), ("absent_", "_absent"), ("fp_", "_fp")])
def test_golden_values_of_the_published_evaluator(golden, prefix, suffix):
    """But for a class that is predicted and not in the truth: the published evaluator counts it as 0, we do not."""
    with np.load(golden / "mlps_metrics.npz") as z:
        counts = confusion(z[f"gt{suffix}"], z[f"pred{suffix}"], 4)
        np.testing.assert_array_equal(counts, z[f"{prefix}confusion"])
        of_truth = counts.sum(1) > 0
        assert (prefix == "fp_") == bool((~of_truth & (counts.sum(0) > 0)).any())
        miou = z["fp_iou"][of_truth].mean() if prefix == "fp_" else z[f"{prefix}miou"]
        np.testing.assert_allclose(metrics.miou(counts), miou, rtol=1e-9)
        np.testing.assert_allclose(metrics.fwiou(counts), z[f"{prefix}fwiou"], rtol=1e-9)
        np.testing.assert_allclose(metrics.pixel_accuracy(counts), z[f"{prefix}acc"], rtol=1e-9)
        np.testing.assert_allclose(metrics.iou(counts), np.where(of_truth, z[f"{prefix}iou"], np.nan), rtol=1e-9)
        if not prefix:
            np.testing.assert_allclose(np.nanmean(metrics.recall(counts)), z["acc_class"], rtol=1e-9)


def test_precision_recall_and_specificity_by_hand():
    counts = np.array([[6, 2, 0], [1, 3, 0], [4, 4, 0]])  # the third class is never predicted
    np.testing.assert_allclose(metrics.precision(counts), [6 / 11, 3 / 9, 0])
    np.testing.assert_allclose(metrics.recall(counts), [6 / 8, 3 / 4, 0])
    np.testing.assert_allclose(metrics.specificity(counts), [7 / 12, 10 / 16, 12 / 12])
    alone = np.array([[6, 2], [0, 0]])  # nothing of another class, nothing to be specific about
    assert metrics.precision(alone).tolist()[0] == 1 and metrics.recall(alone).tolist()[0] == 0.75
    assert np.isnan(metrics.specificity(alone)).all()
    assert np.isnan([metrics.precision(alone)[1], metrics.recall(alone)[1]]).all()


@given(matrices)
def test_rates_of_one_class_are_those_of_the_two_class_problem(counts):
    """Dice is their harmonic mean, and the recall of all others together is the specificity."""
    both = np.array([[counts[0, 0], counts[0, 1:].sum()], [counts[1:, 0].sum(), counts[1:, 1:].sum()]])
    np.testing.assert_allclose(metrics.precision(both)[0], metrics.precision(counts)[0])
    np.testing.assert_allclose(metrics.specificity(both)[0], metrics.specificity(counts)[0])
    if counts[0].any():
        assert metrics.specificity(both)[0] == pytest.approx(metrics.recall(both)[1], nan_ok=True)
    precision, recall = metrics.precision(counts), metrics.recall(counts)
    with np.errstate(invalid="ignore"):
        harmonic = np.nan_to_num(2 * precision * recall / (precision + recall))
    np.testing.assert_allclose(np.nan_to_num(metrics.dice(counts)), harmonic)


def test_equal_to_torchmetrics():
    torch = pytest.importorskip("torch")
    classification = pytest.importorskip("torchmetrics.classification")
    rng = np.random.default_rng(0)
    truth, predicted = rng.integers(0, 4, (2, 5000))
    predicted = np.where(rng.random(5000) < 0.6, truth, predicted)
    counts = confusion(truth, predicted, 4)
    pair = (torch.from_numpy(predicted), torch.from_numpy(truth))
    iou = classification.MulticlassJaccardIndex(4, average=None)(*pair).numpy()
    np.testing.assert_allclose(metrics.iou(counts), iou, rtol=1e-5)
    np.testing.assert_allclose(metrics.miou(counts), iou.mean(), rtol=1e-5)
    weighted = classification.MulticlassJaccardIndex(4, average="weighted")(*pair).item()
    np.testing.assert_allclose(metrics.fwiou(counts), weighted, rtol=1e-5)
    micro = classification.MulticlassAccuracy(4, average="micro")(*pair).item()
    np.testing.assert_allclose(metrics.pixel_accuracy(counts), micro, rtol=1e-5)
    f1 = classification.MulticlassF1Score(4, average=None)(*pair).numpy()
    np.testing.assert_allclose(metrics.dice(counts), f1, rtol=1e-5)


@given(matrices, st.integers(2, 1000))
def test_scaled_counts_give_the_same_scores(counts, factor):
    for metric in PIXEL:
        np.testing.assert_allclose(metric(counts * factor), metric(counts), rtol=1e-12)


@given(matrices)
def test_perfect_predictions_score_one_and_absent_classes_nothing(counts):
    perfect = np.diag(counts.sum(1))
    present = perfect.diagonal() > 0
    np.testing.assert_array_equal(metrics.iou(perfect), np.where(present, 1.0, np.nan))
    np.testing.assert_array_equal(metrics.dice(perfect), np.where(present, 1.0, np.nan))
    for metric in (metrics.miou, metrics.fwiou, metrics.pixel_accuracy):
        assert metric(perfect) == pytest.approx(1.0) if present.any() else np.isnan(metric(perfect))


@given(matrices)
def test_scores_are_shares_and_a_class_nobody_names_changes_no_mean(counts):
    padded = np.pad(counts, ((0, 1), (0, 1)))
    assert np.isnan(metrics.iou(padded)[-1])
    for metric in (metrics.miou, metrics.fwiou, metrics.pixel_accuracy):
        np.testing.assert_allclose(metric(padded), metric(counts), rtol=1e-12)
        assert np.isnan(metric(counts)) or 0 <= metric(counts) <= 1 + 1e-12


def test_all_at_once_equals_one_by_one_over_leading_axes():
    counts = np.random.default_rng(0).integers(0, 9, (2, 5, 3, 3))
    counts[0, 0] = 0
    boundaries = np.random.default_rng(1).integers(0, 9, (2, 5, 3, 4))
    boundaries[0, 1, 2] = 0
    bins = np.random.default_rng(2).random((2, 5, 15, 3))
    got = metrics.pixel_metrics(
        metrics.margins(counts, boundaries), metrics.calibration_gaps(bins), metrics.area_error(counts)
    )
    names = metrics.pixel_metric_names(("a", "b", "c"))
    assert names == (
        *("miou", "fwiou", "pixel_accuracy", "boundary_f1", "ece", "area_error", "precision", "recall", "specificity"),
        *("dice/a", "dice/b", "dice/c", "iou/a", "iou/b", "iou/c", "boundary_f1/a", "boundary_f1/b", "boundary_f1/c"),
        *("precision/a", "precision/b", "precision/c", "recall/a", "recall/b", "recall/c"),
        *("specificity/a", "specificity/b", "specificity/c"),
    )
    assert got.shape == (2, 5, len(names))
    edges = metrics.boundary_f1(boundaries)
    with np.errstate(invalid="ignore", divide="ignore"):
        ece = np.where(counts.any((-2, -1)), np.abs(bins[..., 1] - bins[..., 2]).sum(-1) / counts.sum((-2, -1)), np.nan)
        whole = [
            *(metrics.miou(counts), metrics.fwiou(counts), metrics.pixel_accuracy(counts), np.nanmean(edges, -1)),
            *(ece, metrics.area_error(counts)),
        ]
        rates = [metrics.precision(counts), metrics.recall(counts), metrics.specificity(counts)]
        means = [np.nansum(rate, -1) / (~np.isnan(rate)).sum(-1) for rate in rates]
    per_class = [metrics.dice(counts), metrics.iou(counts), edges, *rates]
    expected = np.concatenate([np.stack([*whole, *means], -1), *per_class], -1)
    np.testing.assert_allclose(got, expected, rtol=1e-12)


def test_a_pixel_of_45_million_does_not_decide():
    """A class that the truth does not have costs the true class what it took from it, and has no score of its own."""
    million = 10**6
    counts = np.zeros((6, 6), dtype=np.int64)
    counts[range(5), range(5)], counts[range(5), [1, 2, 3, 4, 0]] = 8 * million, million
    assert counts.sum() == 45 * million and metrics.miou(counts) == pytest.approx(0.8)
    counts[0, 0], counts[0, 5] = counts[0, 0] - 1, 1
    assert metrics.miou(counts) == pytest.approx(0.8, abs=1e-6)  # not .667
    assert np.isnan(metrics.iou(counts)[5]) and np.isnan(metrics.dice(counts)[5])


def test_only_classes_and_boundaries_of_the_truth_have_a_score():
    exact = np.array([[8, 2, 0], [0, 0, 0], [0, 0, 0]])
    assert metrics.miou(exact) == 0.8  # not the .4 of two classes
    edges = np.zeros((3, 4), dtype=np.int64)
    edges[1, 2] = 1
    names = metrics.pixel_metric_names(("a", "b", "c"))
    got = metrics.pixel_metrics(metrics.margins(exact, edges), np.zeros(15), metrics.area_error(exact))
    score = dict(zip(names, got.tolist(), strict=True))
    assert score["miou"] == score["iou/a"] == 0.8 and np.isnan(score["iou/b"])
    assert np.isnan(score["boundary_f1"])  # no two annotations touch, and one wrong pixel makes a boundary


def test_an_invented_class_takes_from_the_true_ones():
    right, wrong = np.array([[10, 0], [0, 0]]), np.array([[6, 4], [0, 0]])
    assert metrics.miou(right) == 1.0 and metrics.miou(wrong) == pytest.approx(0.6)
    assert metrics.dice(wrong)[0] == pytest.approx(12 / 16) and metrics.fwiou(wrong) == pytest.approx(0.6)


@given(matrices)
def test_the_mean_is_over_the_classes_of_the_truth(counts):
    there = counts.sum(1) > 0
    assert (np.isnan(metrics.iou(counts)) == ~there).all()
    if there.any():
        assert metrics.miou(counts) == pytest.approx(metrics.iou(counts)[there].mean())


def test_area_error_is_the_tissue_that_is_called_something_else():
    counts = np.array([[60, 10, 0], [0, 20, 0], [0, 5, 5]])  # 70, 20 and 10 pixels, called 60, 35 and 5
    assert metrics.area_error(counts) == pytest.approx(0.15)
    swapped = np.array([[0, 50], [50, 0]])  # all wrong, and the areas right
    assert metrics.area_error(swapped) == 0
    assert np.isnan(metrics.area_error(np.zeros((2, 2))))


@pytest.mark.parametrize("metric", ["miou", "dice/ece", "boundary_f1", "balanced_accuracy", "auc"])
def test_only_errors_are_better_when_lower(metric):
    assert not metrics.lower_is_better(metric)
    assert metrics.lower_is_better("ece") and metrics.lower_is_better("area_error")


def test_boundary_f1_is_that_of_precision_and_recall():
    precision, recall = 30 / 50, 20 / 80
    f1 = metrics.boundary_f1(np.array([[80, 20, 50, 30]]))
    np.testing.assert_allclose(f1, [2 * precision * recall / (precision + recall)])


@pytest.mark.parametrize(
    ("counts", "f1"),
    [
        ([9, 9, 7, 7], 1.0),
        ([9, 0, 7, 0], 0.0),
        ([9, 0, 0, 0], 0.0),  # missed
        ([0, 0, 7, 0], np.nan),  # invented: the truth has none to find
        ([0, 0, 0, 0], np.nan),  # neither there nor predicted: no score
    ],
)
def test_boundary_f1_at_its_ends(counts, f1):
    np.testing.assert_array_equal(metrics.boundary_f1(np.array(counts)), f1)


@pytest.mark.parametrize("absent", [(), (3,), (0, 4)])
def test_equal_to_scikit_learn(absent):
    """Classes absent from truth and prediction are unknown to scikit-learn, and left out here."""
    from sklearn import metrics as reference

    rng = np.random.default_rng(8)
    present = [c for c in range(5) if c not in absent]
    truth = rng.choice(present, 4000)
    predicted = np.where(rng.random(4000) < 0.6, truth, rng.choice(present, 4000))
    counts = reference.confusion_matrix(truth, predicted, labels=range(5))
    known = {"labels": present, "average": None}
    np.testing.assert_allclose(metrics.iou(counts)[present], reference.jaccard_score(truth, predicted, **known))
    np.testing.assert_allclose(metrics.dice(counts)[present], reference.f1_score(truth, predicted, **known))
    assert np.isnan(metrics.iou(counts)[list(absent)]).all()
    assert metrics.miou(counts) == pytest.approx(
        reference.jaccard_score(truth, predicted, labels=present, average="macro")
    )
    assert metrics.fwiou(counts) == pytest.approx(reference.jaccard_score(truth, predicted, average="weighted"))
    assert metrics.pixel_accuracy(counts) == pytest.approx(reference.accuracy_score(truth, predicted))
    np.testing.assert_allclose(metrics.precision(counts)[present], reference.precision_score(truth, predicted, **known))
    np.testing.assert_allclose(metrics.recall(counts)[present], reference.recall_score(truth, predicted, **known))
    negatives = [reference.recall_score(truth != c, predicted != c) for c in present]
    np.testing.assert_allclose(metrics.specificity(counts)[present], negatives)
