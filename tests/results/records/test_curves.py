import math
from pathlib import Path

import pytest

from tissuebench.errors import DataError
from tissuebench.results.records.curves import CURVES_FILE, last_loss, read_curves


def write(folder: Path, text: str) -> Path:
    (folder / CURVES_FILE).write_text(text)
    return folder


def test_reads_each_metric_where_it_was_logged(tmp_path: Path) -> None:
    write(tmp_path, "step,train/loss,val/miou\n10,0.5,\n20,nan,0.25\n")

    curves = read_curves(tmp_path)

    assert curves["val/miou"] == ((20, 0.25),)
    assert curves["train/loss"][0] == (10, 0.5)
    assert math.isnan(curves["train/loss"][1][1])
    assert last_loss(curves) == (10, 0.5)


def test_ignores_a_line_that_is_still_being_written(tmp_path: Path) -> None:
    write(tmp_path, "step,train/loss\n10,0.5\n20,0.2")

    assert read_curves(tmp_path) == {"train/loss": ((10, 0.5),)}


@pytest.mark.parametrize("text", ["", "step", "step,train/loss\n"])
def test_a_training_that_has_logged_nothing_has_no_loss(tmp_path: Path, text: str) -> None:
    assert last_loss(read_curves(tmp_path)) is None
    assert last_loss(read_curves(write(tmp_path, text))) is None


@pytest.mark.parametrize(
    "line", ["10,0.5,3", "10,much", "ten,0.5", "20,1\n10,1"], ids=["surplus cell", "no number", "no step", "backwards"]
)
def test_a_damaged_file_is_named_with_its_line(tmp_path: Path, line: str) -> None:
    write(tmp_path, f"step,train/loss\n{line}\n")

    with pytest.raises(DataError, match=r"metrics\.csv: line \d"):
        read_curves(tmp_path)
