import math
from pathlib import Path

import pytest

from tissuebench.errors import DataError
from tissuebench.results.records.curves import CURVES_FILE, last_loss, read_curves, read_last_loss


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


def test_the_last_loss_is_read_from_the_end_of_a_long_file(tmp_path: Path) -> None:
    lines = [f"{step},{step / 7},{0.5 if step % 100 == 0 else ''}" for step in range(1, 20_001)]
    write(tmp_path, "\n".join(["step,train/loss,val/miou", *lines, "20001,nan,", "20002,,0.5", "20003,0.1"]))

    assert read_last_loss(tmp_path) == (20_000, 20_000 / 7)
    assert read_last_loss(write(tmp_path, "step,train/loss\n1,0.5\n")) == (1, 0.5)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "step",
        "step,train/loss\n",
        "step,train/loss\n1,0.5",
        "step,val/miou\n1,0.5\n",
        "\xff",
        "step,train/loss\nx,y\n",
    ],
)
def test_a_display_survives_a_file_without_a_loss(tmp_path: Path, text: str) -> None:
    assert read_last_loss(tmp_path) is None
    (tmp_path / CURVES_FILE).write_bytes(text.encode("latin-1"))
    assert read_last_loss(tmp_path) is None
