"""``tissuebench predict``: segment slides with a finished trial's model."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from tissuebench.cli.common import EXISTING_HOME, EXIT_SOME_FAILED, Command, example, next_step, section, stderr
from tissuebench.errors import ConfigError

if TYPE_CHECKING:
    from tissuebench.common.progress import ProgressDisplay
    from tissuebench.prediction.batch import Outcome
    from tissuebench.prediction.load_method import Trained


@click.command(
    cls=Command,
    short_help="Segment slides with a trained method.",
    epilog=example("tissuebench predict slides/*.svs --method complementary --budget masks:3p --out predicted"),
)
@click.argument("slides", nargs=-1, required=True, type=click.Path(path_type=Path))
@section(
    "Model",
    click.option("--trial", "trial_id", metavar="ID", help="Id of a finished trial, or its first characters."),
    click.option("--method", help="Instead of --trial, together with --budget: method of the trial."),
    click.option("--budget", help="Budget of the trial. Validation scores decide between several, if there are any."),
    click.option("--dataset", help="Dataset of the trial; needed if several have such trials."),
)
@section(
    "Slides",
    click.option("--mpp", type=float, help="Micrometres per pixel of the slides; overrides the files."),
    click.option("--reader", default="", help="tifffile, openslide, ome-zarr or plain; default: by the suffix."),
    click.option("--series", default="", help="Image of a file with several: number from 0, or name."),
)
@section(
    "Output",
    click.option(
        "--out",
        type=click.Path(path_type=Path),
        help="Folder to create, for several slides that of their folders; default: SLIDE-ID in the current folder.",
    ),
    click.option("--overwrite", is_flag=True, help="Replace earlier predictions."),
    click.option("--glass", is_flag=True, help="Also count and outline what lies off the tissue."),
)
@section(
    "Outlines",
    click.option(
        "--min-area",
        type=click.FloatRange(min=0),
        default=0.0,
        show_default=True,
        metavar="UM2",
        help="Leave out areas below this many µm², and fill such holes.",
    ),
    click.option(
        "--simplify",
        type=click.FloatRange(min=0),
        default=1.0,
        show_default=True,
        metavar="PIXELS",
        help="How far outlines may run from the borders of pixels; 0: along them.",
    ),
    click.option(
        "--frame",
        type=click.Choice(["bounds", "slide"]),
        default="bounds",
        show_default=True,
        help="Coordinates in a slide that states its scanned part: of that part, as in QuPath, or of the whole.",
    ),
    click.option("--gzip", "compress", is_flag=True, help="Write labels.geojson.gz."),
)
@EXISTING_HOME
def predict(
    slides: tuple[Path, ...],
    trial_id: str | None,
    method: str | None,
    budget: str | None,
    dataset: str | None,
    mpp: float | None,
    reader: str,
    series: str,
    out: Path | None,
    overwrite: bool,
    glass: bool,
    min_area: float,
    simplify: float,
    frame: Literal["slide", "bounds"],
    compress: bool,
    home: Path,
) -> None:
    """Segment SLIDES with a trained method and print the folders that were created.

    Each holds labels.geojson for QuPath, labels.ome.zarr for napari, areas.csv with the area of each class over tissue,
    predictions.csv with the same and the diagnosis by area in one row, and prediction.json with the provenance. Several
    slides get one predictions.csv for all, and the exit code is 3 if one of them fails. The same command typed again
    continues with the slides that are not finished.
    """
    from tissuebench.common.progress import ProgressDisplay
    from tissuebench.prediction.batch import lay_out, predict_each, summarise
    from tissuebench.prediction.options import PredictionOptions
    from tissuebench.prediction.predict import Predictor

    options = PredictionOptions(mpp, reader, series, glass, frame, min_area, simplify, compress)
    n_failed = n_over = 0
    spent: list[float] = []
    with ProgressDisplay(stderr()) as display:
        trained = _trained(home, trial_id, method, budget, dataset, display)
        jobs = lay_out(slides, trained, options, out, overwrite)
        try:
            for outcome in predict_each(jobs, lambda: Predictor(trained, options), display.phase):
                n_over += 1
                n_failed += bool(outcome.failure)
                spent += [outcome.seconds] if outcome.prediction else []
                _tell(outcome, n_over, len(jobs), sum(not job.is_finished for job in jobs[n_over:]), spent, display)
        except KeyboardInterrupt:
            done = f"{n_over} of {len(jobs)} slides are over" if len(jobs) > 1 else "nothing was written"
            raise KeyboardInterrupt(f"{done}; type the same command again to predict the rest") from None
        if len(jobs) > 1:
            display.note(f"table of the slides: {summarise(out, jobs, trained)}")
    first = next((job.folder for job in jobs if (job.folder / "prediction.json").is_file()), None)
    if first is not None:
        outlines = "labels.geojson.gz" if compress else "labels.geojson"
        next_step(f"open the slide in QuPath and drag {shlex.quote(str(first / outlines))} onto it")
    if n_failed:
        raise SystemExit(EXIT_SOME_FAILED)


def _trained(
    home: Path,
    trial_id: str | None,
    method: str | None,
    budget: str | None,
    dataset: str | None,
    display: ProgressDisplay,
) -> Trained:
    from tissuebench.prediction.choose_trial import choose_trial
    from tissuebench.prediction.load_method import find_trained

    if trial_id is not None and (method or budget or dataset):
        raise ConfigError("--trial names the trial: leave out --method, --budget and --dataset, or --trial")
    if trial_id is None:
        if not (method and budget):
            raise ConfigError("give --trial ID, or --method and --budget; 'tissuebench trial list' shows what there is")
        choice = choose_trial(home, method, budget, dataset)
        display.note(choice.reason)
        trial_id = choice.trial
    return find_trained(home, trial_id)


def _tell(outcome: Outcome, number: int, total: int, n_left: int, spent: list[float], display: ProgressDisplay) -> None:
    """Print the folder of a slide, and what is to be said of it; with several, each in one line with the time left."""
    from tissuebench.sweep.estimate.estimate import about

    job, made = outcome.job, outcome.prediction
    head = f"slide {number}/{total} {job.slide.name}: " if total > 1 else ""
    if outcome.failure:
        display.note(f"{head}FAILED: {outcome.failure}")
        return
    if made is None:
        display.note(f"{head}kept, it is finished already; --overwrite predicts it again")
    else:
        for line in (*(f"note: {note}" for note in made.notes), *(f"warning: {one}" for one in made.warnings)):
            display.note(head + line)
        if total == 1:
            for area in made.areas:
                size = "" if area.area_mm2 is None else f"  {area.area_mm2:.4g} mm²"
                display.note(f"{area.name:20} {area.share:7.2%}{size}")
        called = "" if made.case is None else f"; by area: {made.case.sentence}"
        left = f"; about {about(n_left * sum(spent) / len(spent))} left" if n_left else ""
        display.note(f"{head}done in {about(outcome.seconds)}{called}{left}")
    click.echo(job.folder)
