"""``tissuebench data``: list, download, ingest and inspect datasets."""

from __future__ import annotations

import shlex
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

import click

from tissuebench.cli.common import (
    AS_JSON,
    DATA_ROOT,
    EXISTING_HOME,
    EXIT_SOME_FAILED,
    HOME,
    Commands,
    example,
    listed,
    next_step,
    say_if_new,
    section,
    stderr,
    stdout,
    steps_after_ingest,
)

if TYPE_CHECKING:
    from tissuebench.datasets.ingest.ingest import Ingested
    from tissuebench.datasets.store.pyramid import Codec
    from tissuebench.datasets.types import StainNormalisation


_MAX_NOTES = 30


@click.group(cls=Commands, epilog=example("tissuebench data ingest folder --data-root my_slides"))
def data() -> None:
    """List, download, ingest and inspect datasets."""


@data.command("list", epilog=example("tissuebench data list"))
@HOME
def list_(home: Path) -> None:
    """List all datasets.

    NAME@56 is dataset NAME in tiles of 56 px, with its own store, results and tables; all commands accept it.
    """
    from tissuebench.datasets.catalog import find_recipe, recipe_names
    from tissuebench.datasets.ingest.dataset import FOLDER, own_datasets
    from tissuebench.datasets.ingest.outcome import remembered_origin

    for name in recipe_names():
        if name == FOLDER:
            click.echo(f"{name:14} your own slides: manifest.csv and dataset.yaml in DATA_ROOT")
            continue
        recipe = find_recipe(name)
        if (home / "data" / name / "store.zarr" / "manifest.json").is_file():
            state = "ready"
        elif recipe.generate is not None:
            state = "drawn on demand"
        else:
            state = (
                "download it with 'tissuebench data fetch'"
                if recipe.downloads and not recipe.by_hand
                else "not ingested"
            )
        click.echo(f"{name:14} {recipe.title}; {recipe.licence}; {state}")
    for name in own_datasets(home):
        click.echo(f"{name:14} your own slides, from {remembered_origin(home / 'data' / name)}")


@data.command(epilog=example("tissuebench data fetch glas"))
@click.argument("dataset")
@HOME
def fetch(dataset: str, home: Path) -> None:
    """Download DATASET, with checksums; interrupted downloads resume.

    If a file must be downloaded manually, the command says which one and where to put it; then run it again.
    """
    from tissuebench.common.progress import ProgressDisplay
    from tissuebench.datasets.catalog import find_recipe
    from tissuebench.datasets.download.fetch import fetch as fetch_files
    from tissuebench.datasets.ingest.ingest import source_folder

    say_if_new(home)
    recipe = find_recipe(dataset)
    with ProgressDisplay(stderr()) as display:
        folder = fetch_files(recipe, source_folder(home, recipe), display.phase, display.note)
    click.echo(f"{folder}: complete; convert it with 'tissuebench data ingest {dataset}'")


@data.command(epilog=example("tissuebench data init my_slides"))
@click.argument("folder", type=click.Path(path_type=Path))
@click.option(
    "--table",
    type=click.Path(path_type=Path),
    help="CSV of your own with the columns slide and patient, diagnosis, split or mpp; fills the manifest.",
)
def init(folder: Path, table: Path | None) -> None:
    """Write manifest.csv and dataset.yaml for the slides in FOLDER, ready to edit.

    It finds slides and their annotations by name, reads the resolutions, lists the classes that the annotations name,
    and proposes ids. Run it again after adding slides: it adds their rows and overwrites nothing.
    """
    from tissuebench.common.progress import ProgressDisplay
    from tissuebench.datasets.survey.init import start_dataset

    with ProgressDisplay(stderr()) as display:
        started = start_dataset(folder, table, display.phase)
        for line in started.to_check:
            display.note(f"check {line}")
    for line in started.written:
        click.echo(line)
    next_step(f"look through both files, then tissuebench data ingest folder --data-root {shlex.quote(str(folder))}")


@data.command(epilog=example("tissuebench data ingest folder --data-root my_slides --stain macenko"))
@click.argument("dataset")
@section(
    "Source",
    DATA_ROOT,
    click.option("--strict", is_flag=True, help="Stop at the first unusable slide."),
    click.option("--update", is_flag=True, help="Update a sealed store: add new slides, drop removed ones."),
)
@section(
    "Store",
    click.option(
        "--codec",
        type=click.Choice(["lz4", "zstd", "none"]),
        default="lz4",
        show_default=True,
        help="Compression of the pixels.",
    ),
    click.option(
        "--stain",
        type=click.Choice(["none", "macenko", "reinhard"]),
        default="none",
        show_default=True,
        help="Normalise the stain of all slides to one reference.",
    ),
)
@click.option("--workers", type=click.IntRange(min=1), help="Processes; default: chosen from number and size of files.")
@HOME
def ingest(
    dataset: str,
    data_root: Path | None,
    workers: int | None,
    strict: bool,
    update: bool,
    codec: Codec,
    stain: StainNormalisation,
    home: Path,
) -> None:
    """Convert the slides and annotations of DATASET to a tile store.

    DATASET@56 converts it in tiles of 56 px, beside the store with its own tile size.

    DATASET is 'folder' for a folder of your own slides (see 'tissuebench data init'), or, once ingested, the name in
    its dataset.yaml; the folder is then remembered.

    Unusable slides are left out and listed with the reason; the exit code is then 3. After an interruption or a crash
    the same command picks up where it left off.
    """
    from tissuebench.common.progress import ProgressDisplay
    from tissuebench.datasets.ingest.dataset import find_dataset
    from tissuebench.datasets.ingest.ingest import IngestOptions, ensure_store
    from tissuebench.datasets.store.slide_writer import written_slides

    say_if_new(home)
    options = IngestOptions(workers, strict, update, codec, stain)
    with ProgressDisplay(stderr()) as display:
        made = ensure_store(find_dataset(dataset, data_root, home), home, data_root, display.phase, options)
        store = made.store
        for note in made.notes:
            display.note(f"note: {note}")
        noted = [(name, note) for name, one in written_slides(store.path).items() for note in one.notes]
        for name, note in noted[:_MAX_NOTES]:
            display.note(f"note: {name}: {note}")
        if len(noted) > _MAX_NOTES:
            look = f"'tissuebench data inspect {store.info.dataset}'"
            display.note(f"{len(noted) - _MAX_NOTES} more notes on slides: {look} shows them all")
        for bad in made.quarantine:
            display.note(f"left out: {bad.slide_id}: {bad.reason}")
    click.echo(
        f"{store.path}: {len(store.slides)} slides, {len(made.quarantine)} left out, {len(noted)} notes, content "
        f"{store.content_hash[:16]}, sealed"
    )
    budgets = _budgets_to_name(made)
    next_step(steps_after_ingest(store.info.dataset, len(store.class_map.diagnoses), budgets, home))
    if made.quarantine:
        raise SystemExit(EXIT_SOME_FAILED)


def _budgets_to_name(made: Ingested) -> list[str]:
    """Return budgets in place of the default plan's that do not fit; none if all do."""
    import yaml

    from tissuebench.datasets.labels.budget_spec import fitting_budgets
    from tissuebench.datasets.labels.draw_budget import offer
    from tissuebench.datasets.types import Supervision

    # Of the plan only this key: checking all of it would import the networks, which an ingest does without.
    plan = files("tissuebench.plans").joinpath("smoke.yaml").read_text(encoding="utf-8")
    planned = list(yaml.safe_load(plan)["budgets"])
    sold = {Supervision.MASKS: len(offer(made.store, made.split, Supervision.MASKS).n_tiles)}
    fitting = fitting_budgets(planned, sold)
    return [] if fitting == planned else fitting


@data.command(epilog=example("tissuebench data inspect synthetic --verify"))
@click.argument("dataset")
@DATA_ROOT
@click.option("--verify", "verified", is_flag=True, help="Also read every pixel and compare it with the seal.")
@EXISTING_HOME
def inspect(dataset: str, data_root: Path | None, verified: bool, home: Path) -> None:
    """Write an HTML page: thumbnails, classes, patients, costs, slides left out."""
    from tissuebench.common.progress import ProgressDisplay
    from tissuebench.datasets.ingest.dataset import dataset_folder, find_dataset
    from tissuebench.datasets.ingest.ingest import ensure_store
    from tissuebench.datasets.store.verify import verify
    from tissuebench.inspection.page import summary, write_inspection

    with ProgressDisplay(stderr()) as display:
        recipe = find_dataset(dataset, data_root, home)
        made = ensure_store(recipe, home, data_root, display.phase)
        if verified:
            verify(made.store)
    folder = dataset_folder(home, recipe.name)
    page = write_inspection(
        home, folder, made.store, made.split, made.quarantine, recipe.title, recipe.licence, made.notes
    )
    stdout().print(summary(made.store, made.split, made.quarantine))
    click.echo(page)


@data.command(epilog=example("tissuebench data budgets synthetic --budget masks:3p,minutes:60 --method complementary"))
@click.argument("dataset", default="synthetic")
@DATA_ROOT
@click.option("--budget", "budgets", multiple=True, help="Repeat or write a,b; default: masks:1p,3p,25%,all.")
@click.option(
    "--replicate",
    "replicates",
    multiple=True,
    type=click.IntRange(min=0),
    default=(0, 1, 2),
    show_default=True,
    help="Number of the draw; may be repeated.",
)
@click.option(
    "--method", "methods", multiple=True, help="Method whose spending rule applies to budgets such as minutes:60."
)
@AS_JSON
@HOME
def budgets(
    dataset: str,
    data_root: Path | None,
    budgets: tuple[str, ...],
    replicates: tuple[int, ...],
    methods: tuple[str, ...],
    as_json: bool,
    home: Path,
) -> None:
    """Show what each budget buys and its assumed cost: patients, slides, tiles, pixels of each class."""
    from tissuebench.bench import open_data
    from tissuebench.common.progress import ProgressDisplay
    from tissuebench.datasets.labels.draw_budget import ALL_ON_MASKS
    from tissuebench.inspection.budgets import describe_budgets, print_budgets, to_json
    from tissuebench.methods.api.registry import find_method
    from tissuebench.plans.expand import spending_of

    spendings = [spending_of(name, find_method(name).Config()) for name in listed(methods)] or [ALL_ON_MASKS]
    with ProgressDisplay(stderr()) as display:
        opened = open_data(dataset, data_root, home, display)
    specs = listed(budgets) or ("masks:1p", "masks:3p", "masks:25%", "masks:all")
    rows = describe_budgets(opened.store, opened.split, specs, replicates, spendings)
    if as_json:
        click.echo(to_json(rows))
    else:
        print_budgets(stdout(), rows)
