"""The leaderboard as the page has it."""

from __future__ import annotations

import json

from tests.results.report.drawing import lined_up
from tests.results.report.realistic import HOSTILE
from tissuebench.results.report.scores import island, scores


def test_data_cannot_leave_its_script_element():
    text = island({"a": "</script><!--", "b": "&\u2028"})
    assert not set("<>&\u2028") & set(text)
    assert json.loads(text) == {"a": "</script><!--", "b": "&\u2028"}


def test_every_metric_of_every_cell_is_there(small):
    view = lined_up(small[0])
    table = scores([view])
    data = json.loads(table.data)
    names = [metric["id"] for metric in data["metrics"]]
    assert {"miou", "ece", f"dice/{HOSTILE}"} <= set(names)
    assert [metric["id"] for metric in data["metrics"] if metric["error"]] == ["ece", "area_error"]
    for line, values in zip(table.lines, data["rows"], strict=True):
        cell = view.cells.get((line.arm, line.budget))
        assert (cell is None) == bool(line.gap)
        for name, numbers in zip(names, values, strict=True):
            row = cell and cell.rows.get(name)
            assert (numbers is None) == (row is None or row.mean is None)
            if numbers:
                assert numbers[0] == round(row.mean, 6)
                assert bool(numbers[6]) == row.tie


def test_best_is_said_only_of_one(small):
    table = scores([lined_up(small[0])])
    for budget in ("masks:3p", "masks:25%", "masks:50%"):
        marks = [line.mark for line in table.lines if line.budget == budget and line.mark]
        assert marks == ["best"] or (len(marks) > 1 and set(marks) == {"tied"})


def test_rows_go_from_the_best_and_gaps_and_full_come_last(small):
    lines = scores([lined_up(small[0])]).lines
    assert lines[-1].arm == "full"
    for budget in ("masks:3p", "masks:50%"):
        values = [line.value for line in lines if line.budget == budget]
        there = [value for value in values if value is not None]
        assert values == sorted(there, reverse=True) + [None] * (len(values) - len(there))
    (gap,) = (line for line in lines if line.gap)
    assert (gap.gap, gap.score, gap.diff) == ("2 of 3 trials, 1 failed", "", "")
