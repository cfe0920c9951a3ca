"""``tissuebench plan``, ``status`` and ``trial``: preview a sweep, watch it, look at one of its trials."""

from __future__ import annotations

import sys
import time
from contextlib import nullcontext
from pathlib import Path

import click

from tissuebench.cli.common import (
    AS_JSON,
    EXISTING_HOME,
    EXIT_SOME_FAILED,
    HOME,
    Command,
    Commands,
    example,
    stderr,
    stdout,
)
from tissuebench.cli.plan_options import PLAN_OPTIONS, Planned

_LOOK_SECONDS = 1.0
_FOLLOW_SECONDS = 0.3

TRIAL = click.argument("trial_id", metavar="ID")


@click.group(cls=Commands, epilog=example("tissuebench plan show --plan standard"))
def plan() -> None:
    """Preview a sweep before it runs."""


@plan.command(epilog=example("tissuebench plan show --plan standard --set training.steps=1000"))
@PLAN_OPTIONS
@AS_JSON
@HOME
def show(planned: Planned, as_json: bool, home: Path) -> None:
    """Show trials, shared tasks, savings, hours and disk space of a plan.

    Nothing is trained or written. If no stored result tells how long a step takes, a few steps are timed on random
    tiles. Of a dataset that is not ingested yet only the trials are shown.
    """
    import json

    from tissuebench.preview import preview
    from tissuebench.sweep.estimate.overview import overview, render

    seen = preview(planned.request(home))
    shown = overview(seen.sweep, home) if seen.sweep else None
    if as_json:
        known = {"trials": []} if shown is None else json.loads(shown.to_json())
        click.echo(json.dumps({**known, "trials": [*known["trials"], *seen.planned]} if seen.planned else known))
        return
    if shown is not None:
        stdout().print(render(shown), soft_wrap=True)
    for line in seen.lines:
        click.echo(line)


@click.command(cls=Command, epilog=example("tissuebench status --watch"))
@click.argument("sweep", required=False)
@click.option("--watch", is_flag=True, help="Refresh every second until the sweep finishes.")
@AS_JSON
@EXISTING_HOME
def status(sweep: str | None, watch: bool, as_json: bool, home: Path) -> None:
    """Show the progress of the latest sweep, or of SWEEP.

    Works from any terminal, on any machine that can read the folder.
    """
    from rich.live import Live

    from tissuebench.sweep.state.record import latest_sweep
    from tissuebench.sweep.view.status import SweepReader, render

    reader = SweepReader(home, latest_sweep(home, sweep))
    seen = reader.read()
    console = stdout()
    if not watch:
        if as_json:
            click.echo(seen.to_json())
        else:
            console.print(render(seen))
        return
    is_live = console.is_terminal and not as_json
    with Live(console=console, auto_refresh=False) if is_live else nullcontext() as live:
        said = ""
        while True:
            if live is not None:
                live.update(render(seen, max(1, (console.height - 4) // 2)), refresh=True)
            elif (line := seen.to_json() if as_json else seen.summary) != said:
                click.echo(said := line)
            if seen.is_over:
                return
            time.sleep(_LOOK_SECONDS)
            seen = reader.read()


@click.group(cls=Commands, epilog=example("tissuebench trial show 3f9a"))
def trial() -> None:
    """List, show, draw, follow, repeat or export trials.

    ID is a trial's id or its first characters.
    """


@trial.command("list", epilog=example("tissuebench trial list --method complementary --budget masks:3p"))
@click.option("--method", help="Only this method, or this variant of it.")
@click.option("--budget", help="Only this budget.")
@click.option("--dataset", help="Only this dataset.")
@AS_JSON
@EXISTING_HOME
def trial_list(method: str | None, budget: str | None, dataset: str | None, as_json: bool, home: Path) -> None:
    """List the trials that finished or failed, with their mIoU."""
    import json
    from dataclasses import asdict

    from tissuebench.cli.trial_page import render_list
    from tissuebench.results.records.result_store import ResultStore
    from tissuebench.results.tables.comparable import results_folder
    from tissuebench.results.tables.trial_list import trial_rows

    rows = trial_rows(ResultStore(results_folder(home)), dataset, method, budget)
    if as_json:
        click.echo(json.dumps([asdict(row) for row in rows]))
    elif rows:
        stdout().print(render_list(rows), soft_wrap=True)
    else:
        click.echo("no such trial has finished or failed yet; 'tissuebench status' shows those that run")


@trial.command("show", epilog=example("tissuebench trial show 3f9a"))
@TRIAL
@AS_JSON
@EXISTING_HOME
def trial_show(trial_id: str, as_json: bool, home: Path) -> None:
    """Show a trial: settings, scores, timings, environment, files, or why it failed."""
    import json

    from tissuebench.cli.trial_page import render
    from tissuebench.sweep.view.lookup import describe_trial, find_trial

    described = describe_trial(find_trial(home, trial_id))
    if as_json:
        click.echo(json.dumps(described))
    else:
        stdout().print(render(described), soft_wrap=True)


@trial.command("plot", epilog=example("tissuebench trial plot 3f9a 71c0 --out curves.png"))
@click.argument("trial_ids", metavar="ID...", nargs=-1, required=True)
@click.option(
    "--out",
    type=click.Path(dir_okay=False, path_type=Path),
    default=Path("curves.svg"),
    show_default=True,
    help="File to write: .svg, .png or .pdf.",
)
@EXISTING_HOME
def trial_plot(trial_ids: tuple[str, ...], out: Path, home: Path) -> None:
    """Draw loss and validation over steps, also of trials that still run: one panel per metric, one colour per method.

    Metrics of earlier stages come last, under the stage's name.
    """
    from tissuebench.sweep.view.lookup import find_trial
    from tissuebench.sweep.view.trial_curves import draw_curves

    found = {one.key: one for one in (find_trial(home, trial_id) for trial_id in trial_ids)}
    click.echo(draw_curves(list(found.values()), out))


@trial.command(epilog=example("tissuebench trial log 3f9a --follow"))
@TRIAL
@click.option("--follow", is_flag=True, help="Keep printing until the trial finishes.")
@EXISTING_HOME
def log(trial_id: str, follow: bool, home: Path) -> None:
    """Print the log of a trial, or of a shared stage by its key."""
    from tissuebench.errors import ConfigError
    from tissuebench.sweep.jobs import State
    from tissuebench.sweep.view.lookup import find_logged

    found = find_logged(home, trial_id)
    if not follow and not found.log.is_file():
        raise ConfigError(f"{found.log}: no such log; {found.kind} {found.key} was never started")
    offset = 0
    while True:
        is_over = found.state in (State.DONE, State.FAILED, State.SKIPPED)  # before the last look
        if found.log.is_file():
            with found.log.open("rb") as file:
                file.seek(offset)
                said = file.read()
            offset += len(said)
            sys.stdout.buffer.write(said)
            sys.stdout.flush()
        if is_over or not follow:
            return
        time.sleep(_FOLLOW_SECONDS)


@trial.command("export", epilog=example("tissuebench trial export 3f9a --onnx --to model"))
@TRIAL
@click.option("--onnx", "with_onnx", is_flag=True, help="Also write model.onnx, compared with the method on tiles.")
@click.option(
    "--to",
    "folder",
    type=click.Path(path_type=Path),
    show_default="model-ID in the current folder",
    help="Folder to create.",
)
@click.option("--overwrite", is_flag=True, help="Replace an earlier export.")
@EXISTING_HOME
def trial_export(trial_id: str, with_onnx: bool, folder: Path | None, overwrite: bool, home: Path) -> None:
    """Write the model of a finished trial: model.safetensors, and README.md with data, budget, scores and use.

    The ONNX graph takes images as uint8 and returns class probabilities. It is written only if onnxruntime gives the
    same labels as the method.
    """
    from tissuebench.common.folders import require_free
    from tissuebench.prediction.export_model import WEIGHTS, export_model
    from tissuebench.prediction.load_method import find_trained

    trained = find_trained(home, trial_id)
    target = folder or Path(f"model-{trained.key[:8]}")
    require_free(target, WEIGHTS, overwrite, option="--to")
    exported = export_model(trained, target, with_onnx)
    if (onnx := exported.onnx) is not None:
        click.echo(
            f"model.onnx: on {onnx.n_tiles} tiles, {onnx.differing:.4%} of the pixels have another label than in "
            f"PyTorch; largest difference of a probability: {onnx.largest:.1g}; "
            f"{'any height and width in multiples of 32 px' if onnx.is_free else 'height and width of a tile only'}",
            err=True,
        )
    click.echo(exported.folder)


@trial.command(epilog=example("tissuebench trial rerun 3f9a"))
@TRIAL
@click.option("--executor", default="local", show_default=True, help="local, slurm, ray or inline.")
@AS_JSON
@EXISTING_HOME
def rerun(trial_id: str, executor: str, as_json: bool, home: Path) -> None:
    """Run a trial again and report whether it reproduces bit for bit.

    The stored result is never replaced.
    """
    import json
    from dataclasses import asdict

    from tissuebench.plans.compute import ComputeSettings
    from tissuebench.rerun import rerun as run_again
    from tissuebench.sweep.view.live import SweepDisplay
    from tissuebench.sweep.view.lookup import find_trial

    compute = ComputeSettings(executor=executor)
    again = run_again(find_trial(home, trial_id), compute, lambda graph: SweepDisplay(stderr(), graph))
    click.echo(json.dumps({**asdict(again), "reproduced": again.differing == 0}) if as_json else again.sentence)
    if again.again is None:
        raise SystemExit(EXIT_SOME_FAILED)
