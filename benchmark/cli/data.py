"""``tissuebench data``: datasets, and how they become stores."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from tissuebench.cli.common import DATA_ROOT, EXIT_SOME_FAILED, HOME, Commands, listed, stderr, stdout

if TYPE_CHECKING:
    from tissuebench.datasets.store.pyramid import Codec
    from tissuebench.datasets.types import StainNormalisation


@click.group(cls=Commands)
def data() -> None:
    """Datasets: what there is, and how it becomes a store."""


@data.command("list")
@HOME
def list_(home: Path) -> None:
    """The datasets that have a recipe.

    Wherever a dataset is named, NAME@56 is NAME in tiles of 56 px: a store, results and tables of its own.
    """
    from tissuebench.datasets.catalog import find_recipe, recipe_names

    for name in recipe_names():
        if name == "folder":
            click.echo(f"{name:14} your own slides: manifest.csv and dataset.yaml in DATA_ROOT")
            continue
        recipe = find_recipe(name)
        if (home / "data" / name / "store.zarr" / "manifest.json").is_file():
            state = "ready"
        elif recipe.generate is not None:
            state = "drawn on demand"
        else:
            state = "'data fetch' downloads it" if recipe.downloads and not recipe.by_hand else "not ingested"
        click.echo(f"{name:14} {recipe.title}; {recipe.licence}; {state}")


@data.command()
@click.argument("dataset")
@HOME
def fetch(dataset: str, home: Path) -> None:
    """Download DATASET's files, checked and resumable.

    Where a source needs a hand, it says which file to put where; the same command then goes on.
    """
    from tissuebench.common.progress import ProgressDisplay
    from tissuebench.datasets.catalog import find_recipe
    from tissuebench.datasets.download.fetch import fetch as fetch_files
    from tissuebench.datasets.ingest.ingest import source_folder

    recipe = find_recipe(dataset)
    with ProgressDisplay(stderr()) as display:
        folder = fetch_files(recipe, source_folder(home, recipe), display.phase, display.note)
    click.echo(f"{folder}: complete; 'tissuebench data ingest {dataset}' makes the store")


@data.command()
@click.argument("dataset")
@DATA_ROOT
@click.option("--workers", type=click.IntRange(min=1), help="Processes; by default as many as the files are worth.")
@click.option("--strict", is_flag=True, help="Stop at the first slide that cannot be used.")
@click.option("--update", is_flag=True, help="Change a sealed store: take in what is new, drop what is gone.")
@click.option("--codec", type=click.Choice(["lz4", "zstd", "none"]), default="lz4", show_default=True)
@click.option(
    "--stain",
    type=click.Choice(["none", "macenko", "reinhard"]),
    default="none",
    show_default=True,
    help="Bring every slide's stain to one reference.",
)
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
    """Make DATASET's store from its slides and annotations.

    DATASET@56 is DATASET in tiles of 56 px, beside that of its own tile size.

    A slide that cannot be used is left out and listed with its reason, and the exit code is 3. Interrupted or killed,
    the same command goes on where it was.
    """
    from tissuebench.common.progress import ProgressDisplay
    from tissuebench.datasets.catalog import find_recipe
    from tissuebench.datasets.ingest.ingest import IngestOptions, ensure_store

    options = IngestOptions(workers, strict, update, codec, stain)
    with ProgressDisplay(stderr()) as display:
        made = ensure_store(find_recipe(dataset, data_root), home, data_root, display.phase, options)
        for note in made.notes:
            display.note(note)
        for bad in made.quarantine:
            display.note(f"left out: {bad.slide_id}: {bad.reason}")
    store = made.store
    click.echo(
        f"{store.path}: {len(store.slides)} slides, {len(made.quarantine)} left out, content "
        f"{store.content_hash[:16]}, sealed"
    )
    if made.quarantine:
        raise SystemExit(EXIT_SOME_FAILED)


@data.command()
@click.argument("dataset")
@DATA_ROOT
@click.option("--verify", "verified", is_flag=True, help="Also read every pixel and compare with the seal.")
@HOME
def inspect(dataset: str, data_root: Path | None, verified: bool, home: Path) -> None:
    """Write a page with thumbnails, classes, patients, costs and what was left out."""
    from tissuebench.common.progress import ProgressDisplay
    from tissuebench.datasets.catalog import find_recipe
    from tissuebench.datasets.ingest.ingest import dataset_folder, ensure_store
    from tissuebench.datasets.store.verify import verify
    from tissuebench.inspection.page import summary, write_inspection

    with ProgressDisplay(stderr()) as display:
        recipe = find_recipe(dataset, data_root)
        made = ensure_store(recipe, home, data_root, display.phase)
        if verified:
            verify(made.store)
    folder = dataset_folder(home, recipe.name)
    page = write_inspection(home, folder, made.store, made.split, made.quarantine, recipe.title, recipe.licence)
    stdout().print(summary(made.store, made.split, made.quarantine))
    click.echo(page)


@data.command()
@click.argument("dataset", default="synthetic")
@DATA_ROOT
@click.option("--budget", "budgets", multiple=True, help="May be given several times, or as a,b.")
@click.option("--replicate", "replicates", multiple=True, type=click.IntRange(min=0), default=(0, 1, 2))
@click.option("--method", "methods", multiple=True, help="Who spends the minutes of budgets like minutes:60.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
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
    """What each budget buys: patients, slides, tiles and pixels of each class, and what it is assumed to cost."""
    from tissuebench.common.progress import ProgressDisplay
    from tissuebench.datasets.labels.draw_budget import ALL_ON_MASKS
    from tissuebench.inspection.budgets import describe_budgets, print_budgets, to_json
    from tissuebench.methods.api.registry import find_method
    from tissuebench.plans.expand import spending_of
    from tissuebench.run import open_data

    spendings = [spending_of(name, find_method(name).Config()) for name in listed(methods)] or [ALL_ON_MASKS]
    with ProgressDisplay(stderr()) as display:
        opened = open_data(dataset, data_root, home, display)
    specs = listed(budgets) or ("masks:1p", "masks:3p", "masks:25%", "masks:all")
    rows = describe_budgets(opened.store, opened.split, specs, replicates, spendings)
    if as_json:
        click.echo(to_json(rows))
    else:
        print_budgets(stdout(), rows)
