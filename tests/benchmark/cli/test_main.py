"""The command line: what it prints, and where."""

from __future__ import annotations

import csv
import io
import json
import subprocess

import pytest
from click.testing import CliRunner

from tissuebench.cli.main import cli


@pytest.fixture
def finished(bench, quiet_environment):
    """A home with the tiny plan run to its end through the real command; its standard output and error."""
    command = bench.command("--method", "complementary", "--budget", "masks:2p,masks:3p", "--seed", "0,1", "--json")
    done = subprocess.run(command, env=quiet_environment, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stderr
    return bench.home, done


def invoke(*arguments):
    result = CliRunner().invoke(cli, [str(argument) for argument in arguments])
    assert result.exit_code == 0, result.output
    return result.stdout


def test_one_run_and_every_way_to_read_it(finished, tmp_path):
    home, done = finished
    rows = json.loads(done.stdout)
    assert {(row["method"], row["budget"]) for row in rows} == {
        ("supervised", "masks:2p"), ("supervised", "masks:3p"),
        ("complementary", "masks:2p"), ("complementary", "masks:3p"), ("full", "masks:all"),
    }  # fmt: skip
    expected = {"dataset", "method", "budget", "minutes", "metric", "mean", "low", "high", "n_seeds", "n_patients"}
    expected |= {"n_replicates", "diff", "diff_low", "diff_high", "diff_to", "tie"}
    assert expected <= set(rows[0])
    assert {row["metric"] for row in rows} >= {"miou", "fwiou", "pixel_accuracy", "balanced_accuracy", "dice/stroma"}
    assert all(row["diff_to"] == "supervised" for row in rows if row["method"] == "complementary")
    assert "trial 1/10" in done.stderr
    assert done.stderr.splitlines()[-1] == (
        f"Next: tissuebench results report --home {home}, then tissuebench predict SLIDE --method complementary "
        f"--budget masks:3p --dataset tiny --home {home}"
    )
    assert "ETA" in done.stderr

    assert json.loads(invoke("results", "table", "--home", home, "--json")) == rows
    assert json.loads((home / "runs" / "tables" / "tiny.json").read_text()) == rows
    out, svg = tmp_path / "table.csv", tmp_path / "table.svg"
    text = invoke("results", "table", "--home", home, "--csv", out, "--svg", svg)
    assert "complementary" in text
    assert "to supervised" in text.replace("\n", " ") or "supervised" in text
    written = list(csv.DictReader(io.StringIO(out.read_text())))
    assert len(written) == len(rows)
    assert svg.read_text().lstrip().startswith("<svg")
    assert "url(http" not in svg.read_text()
    assert "difference to full masks:all" in invoke("results", "compare", "--home", home)
    both = invoke("results", "compare", "--home", home, "--metric", "miou,fwiou")
    assert "miou" in both and "fwiou" in both
    failed = CliRunner().invoke(cli, ["results", "compare", "--home", str(home), "--metric", "miuo"])
    assert "unknown metric 'miuo': did you mean 'miou'?" in str(failed.exception)
    assert "no results yet" in invoke("results", "table", "--home", home, "--dataset", "another")


def test_variants_and_other_settings_stay_apart(bench, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "disabled")
    shared = ["--method", "complementary", "--budget", "masks:2p", "--seed", "0", "--json", "--executor", "inline"]
    for extra in ([], ["--set", "methods.complementary.gamma=0"], ["--set", "training.steps=3"]):
        invoke(*bench.options(*shared, *extra))
    main = json.loads(invoke("results", "table", "--home", bench.home, "--json"))
    assert {row["method"] for row in main} == {"supervised", "complementary", "complementary[gamma=0.0]", "full"}
    everything = json.loads(invoke("results", "table", "--home", bench.home, "--json", "--all"))
    assert len([r for r in everything if r["metric"] == "miou" and r["method"] == "supervised"]) == 2
    assert "complementary[gamma=0.0]" in {row["method"] for row in everything}
    tables = {path.stem: json.loads(path.read_text()) for path in (bench.home / "runs" / "tables").glob("*.json")}
    assert tables.pop("tiny") == main
    ((name, rows),) = tables.items()
    assert name.startswith("tiny-") and {row["method"] for row in rows} == {"supervised", "complementary", "full"}


def test_a_validation_run_leaves_the_test_results_where_they_are(bench, monkeypatch):
    """Neither the board, nor its files, nor the report; each command offers it in one line."""
    monkeypatch.setenv("WANDB_MODE", "disabled")
    shared = ["--method", "supervised", "--budget", "masks:2p", "--executor", "inline", "--json"]
    tested = json.loads(invoke(*bench.options(*shared, "--seed", "0")))
    home, tables = bench.home, bench.home / "runs" / "tables"
    before = (tables / "tiny.csv").read_bytes()
    looked = CliRunner().invoke(cli, bench.options(*shared[:-1], "--seed", "0,1", "--set", "evaluation.part=val"))
    assert looked.exit_code == 0, looked.output
    assert "with evaluation.part=val, unlike the main table" in " ".join(looked.stdout.split())
    assert f"{tables / 'tiny-val.csv'} holds the table of tiny" in " ".join(looked.stderr.split()).replace("- ", "-")
    assert (tables / "tiny.csv").read_bytes() == before and (tables / "tiny-val.csv").is_file()
    line = "4 trials under other settings (4 scored on the validation part): 'tissuebench results table --all'"
    commands = (["table", "--json"], ["export", "--format", "json"], ["compare"], ["report"])
    for command in commands:
        done = CliRunner().invoke(cli, ["results", *command, "--home", str(home)])
        assert done.exit_code == 0, done.output
        assert line in done.stderr and line not in done.stdout, command
        if command[0] == "table":
            assert json.loads(done.stdout) == tested
    exported = json.loads((home / "runs" / "export" / "leaderboard.json").read_text())
    assert len(exported) == len(tested)
    reported = (home / "runs" / "report" / "data" / "d0-leaderboard.csv").read_bytes()
    assert reported == before and not (home / "runs" / "report" / "data" / "d1-leaderboard.csv").exists()
    both = invoke("results", "table", "--home", home, "--all")
    assert "with evaluation.part=val, unlike the main table" in " ".join(both.split())


def test_dry_run_lists_and_trains_nothing(bench):
    listed = invoke(*bench.options("--method", "complementary", "--dry-run"))
    assert listed.count(": to run") == 2 * (2 + 2 + 1)
    assert not (bench.home / "runs").exists()


def test_lists():
    datasets = invoke("data", "list")
    assert "synthetic" in datasets
    assert "CC BY 4.0" in datasets
    methods = invoke("method", "list")
    assert "complementary" in methods
    assert "upper bound" in methods


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--nope"], "No such option"),
        (["run", "--nope"], "'tissuebench run --help'"),
        (["results", "tabel"], "did you mean 'table'"),
    ],
)
def test_a_wrong_option_is_one_line(monkeypatch, capsys, arguments, said):
    from tissuebench.cli.main import main

    monkeypatch.setattr("sys.argv", ["tissuebench", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("tissuebench: ")
    assert said in line


def test_nothing_typed_shows_the_help(monkeypatch, capsys):
    from tissuebench.cli.main import main

    monkeypatch.setattr("sys.argv", ["tissuebench"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 0
    assert "\n  tissuebench results table" in capsys.readouterr().out
