"""``tissuebench perf``: what speed costs and gives, as ratios measured within one run."""

from __future__ import annotations

from pathlib import Path

import click

from tissuebench.cli_common import DATA_ROOT, DATASET, Commands, stdout

_JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


@click.group(cls=Commands)
def perf() -> None:
    """Benchmarks: ratios measured in one run on this machine."""


@perf.command()
@click.option(
    "--size", "size_px", type=click.IntRange(min=2048), default=8192, show_default=True, help="Slide edge, px."
)
@_JSON
def tiles(size_px: int, as_json: bool) -> None:
    """How fast tiles are read from a store, against OpenSlide, PNG files and memory maps."""
    from tissuebench.perf.tiles import run

    run(stdout(), as_json, size_px)


@perf.command()
@click.option("--home", type=click.Path(file_okay=False, path_type=Path), help="Use the store of this home.")
@DATASET
@DATA_ROOT
@click.option("--plan", "plan_name", default="smoke", show_default=True)
@_JSON
def loader(home: Path | None, dataset: str, data_root: Path | None, plan_name: str, as_json: bool) -> None:
    """What the data module costs a training, against the same training on one batch."""
    from tissuebench.perf.loader import run

    run(stdout(), as_json, home, dataset, data_root, plan_name)


@perf.command()
@click.option("--home", type=click.Path(file_okay=False, path_type=Path), help="Use the embedded data of this home.")
@click.option("--nodes", "n_nodes", type=click.IntRange(min=2), default=40, show_default=True)
@click.option("--slots", "n_slots", type=click.IntRange(min=1), default=2, show_default=True)
@_JSON
def sweep(home: Path | None, n_nodes: int, n_slots: int, as_json: bool) -> None:
    """What a sweep of tiny nodes costs beside the nodes themselves."""
    from tissuebench.perf.sweep import run

    run(stdout(), as_json, home, n_nodes, n_slots)


@perf.command()
@click.option("--tiles", "n_tiles", type=click.IntRange(min=1), default=1000, show_default=True)
@_JSON
def masks(n_tiles: int, as_json: bool) -> None:
    """What pseudo-masks cost, against the passes through the network that they cannot do without."""
    from tissuebench.perf.pseudo_masks import run

    run(stdout(), as_json, n_tiles)
