"""Scores from sums over objects, alone and beside the other scores of a trial."""

from dataclasses import replace

import numpy as np
import pytest

from tissuebench.errors import DataError
from tissuebench.results.export.export import Format, export
from tissuebench.results.frames.trials import patient_scores, slide_objects, trial_scores
from tissuebench.results.records.object_metrics import SUMS, object_hausdorff, object_scores
from tissuebench.results.records.object_sums import ObjectSums
from tissuebench.results.stats.intervals import score_interval
from tissuebench.results.tables.leaderboard import build
from tissuebench.results.tables.panel import panels

ONE = (2, 1, 1, 30, 20, 16, 16, 60, 20, 16, 34)  # two true objects of 15 px, one of them found
NONE = (0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0)
INVENTED = (0, 1, 0, 0, 10, 0, 0, 0, 50, 0, 10)
MISSED = (1, 0, 0, 10, 0, 0, 0, 50, 0, 0, 10)


def trials(make_trial, *rows, unit="um", **more):
    made = make_trial(rng=np.random.default_rng(0), n_patients=len(rows), slides_each=1, **more)
    sums = np.array(rows, dtype=np.float64)[:, None]
    return replace(made, objects=ObjectSums(("HCC",), unit, sums))


def test_scores_by_hand():
    np.testing.assert_allclose(object_scores(np.array(ONE, float)), [(16 / 30 + 16 / 20) / 2, 2 / 3, 16 / 34])
    assert object_hausdorff(np.array(ONE, float)) == (60 / 30 + 20 / 20) / 2
    assert object_scores(np.array(MISSED, float)).tolist() == [0, 0, 0]
    assert object_hausdorff(np.array(MISSED, float)) == 5
    for none in (NONE, INVENTED):
        assert np.isnan(object_scores(np.array(none, float))).all() and np.isnan(
            object_hausdorff(np.array(none, float))
        )


def test_they_stand_beside_the_other_scores(make_trial):
    one = trials(make_trial, ONE, MISSED, INVENTED, NONE)
    (scores,) = trial_scores([one]).to_dict("records")
    pooled = one.objects.sums[:, 0].sum(0)
    expected = dict(zip(("region_dice/HCC", "region_f1/HCC", "region_aji/HCC"), object_scores(pooled), strict=True))
    expected["region_hausdorff_um/HCC"] = float(object_hausdorff(pooled))
    assert {name: scores[name] for name in expected} == pytest.approx(expected)
    own = patient_scores([one]).set_index(["metric", "patient"])["score"]
    assert own["region_f1/HCC"].dropna().to_dict() == pytest.approx({"p0": 2 / 3, "p1": 0})
    assert own["region_hausdorff_um/HCC"].dropna().to_dict() == {"p0": 1.5, "p1": 5}
    bare = replace(one, objects=None)
    assert {name: value for name, value in scores.items() if "region_" not in name} == pytest.approx(
        trial_scores([bare]).to_dict("records")[0], nan_ok=True
    )


def test_their_intervals_are_over_patients_and_distances_have_none(make_trial):
    one = trials(make_trial, ONE, MISSED, ONE, ONE)
    (panel,) = panels([one])
    (cell,) = panel.cells.values()
    shares = dict(zip(panel.metrics, cell.shares().T.tolist(), strict=True))
    assert shares["region_dice/HCC"] == shares["region_aji/HCC"] == [0.3, 0.1, 0.3, 0.3]
    assert shares["region_f1/HCC"] == pytest.approx([2 / 7, 1 / 7, 2 / 7, 2 / 7])
    found, at = score_interval(cell), panel.metrics.index("region_aji/HCC")
    assert found.mean[at] == pytest.approx(48 / 112)
    assert 0 < found.low[at] < found.mean[at] < found.high[at] < 1
    assert not any("hausdorff" in row.metric for row in build([one]).rows)
    assert panel.metrics[-2:] == ("balanced_accuracy", "auc")


def test_the_export_has_each_slide(make_trial, tmp_path):
    one = trials(make_trial, ONE, NONE, unit="px")
    rows = slide_objects([one]).to_dict("records")
    assert [row["slide"] for row in rows] == ["s0", "s1"] and {row["class"] for row in rows} == {"HCC"}
    assert {name: rows[0][name] for name in SUMS} == dict(zip(SUMS, ONE, strict=True))
    assert rows[0]["region_hausdorff"] == 1.5 and rows[0]["unit"] == "px" and np.isnan(rows[1]["region_dice"])
    assert {path.name for path in export([[one]], tmp_path, [Format.CSV])} > {"objects.csv"}
    assert "region_hausdorff_px/HCC" in trial_scores([one])


def test_results_without_objects_have_no_column_of_them(make_trial, tmp_path):
    bare = make_trial(rng=np.random.default_rng(0))
    assert not [name for name in trial_scores([bare]) if "region" in name]
    assert slide_objects([bare]).empty
    assert "objects.csv" not in {path.name for path in export([[bare]], tmp_path, [Format.CSV])}
    with pytest.raises(DataError, match="different classes of objects"):
        panels([bare, trials(make_trial, *[ONE] * 12, seed=1, patient_ids=bare.patient_ids)])
