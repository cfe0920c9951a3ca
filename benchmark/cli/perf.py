"""``tissuebench perf``: what speed costs and gives, as ratios measured within one run."""

from __future__ import annotations

from pathlib import Path

import click

from tissuebench.cli.common import DATA_ROOT, DATASET, Commands, stdout

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
@click.option("--tasks", "--nodes", "n_tasks", type=click.IntRange(min=2), default=40, show_default=True)
@click.option("--slots", "n_slots", type=click.IntRange(min=1), default=2, show_default=True)
@_JSON
def sweep(home: Path | None, n_tasks: int, n_slots: int, as_json: bool) -> None:
    """What a sweep of tiny tasks costs beside the tasks themselves."""
    from tissuebench.perf.sweep import run

    run(stdout(), as_json, home, n_tasks, n_slots)


@perf.command()
@click.option("--tiles", "n_tiles", type=click.IntRange(min=1), default=1000, show_default=True)
@_JSON
def masks(n_tiles: int, as_json: bool) -> None:
    """What pseudo-masks cost, against the passes through the network that they cannot do without."""
    from tissuebench.perf.masks import run

    run(stdout(), as_json, n_tiles)


@perf.command()
@click.option(
    "--width", type=click.IntRange(min=8), default=32, show_default=True, help="Channels of the U-Net's finest level."
)
@click.option("--multipliers", default="1,2,4", show_default=True, help="Channels of its levels, in widths.")
@click.option(
    "--patch", type=click.IntRange(1, 8), default=2, show_default=True, help="Pixels along an edge seen as one."
)
@click.option("--tile-px", type=click.IntRange(16, 256), default=64, show_default=True, help="Tile edge, px.")
@click.option("--batch", type=click.IntRange(min=1), default=16, show_default=True, help="Tiles a step.")
@click.option("--steps", type=click.IntRange(min=1), default=200, show_default=True, help="Of each precision.")
@_JSON
def denoising(width: int, multipliers: str, patch: int, tile_px: int, batch: int, steps: int, as_json: bool) -> None:
    """What a step of diffusion pre-training costs, and whether bf16 learns what float32 learns."""
    from tissuebench.perf.denoising import run

    run(stdout(), as_json, width, multipliers, patch, tile_px, batch, steps)


@perf.command()
@click.option("--rounds", type=click.IntRange(min=1), default=5, show_default=True)
@click.option(
    "--rep-stride",
    type=click.Choice(["1", "2", "4", "8", "16"]),
    default="4",
    show_default=True,
    help="Pixels along an edge for each vector.",
)
@_JSON
def contrast(rounds: int, rep_stride: str, as_json: bool) -> None:
    """What the contrast between pixels costs beside the supervised step, at the published sizes."""
    from tissuebench.perf.contrast import run

    run(stdout(), as_json, rounds, int(rep_stride))


@perf.command()
@click.option("--trials", "n_trials", type=click.IntRange(min=200), default=1000, show_default=True)
@click.option("--rounds", type=click.IntRange(min=1), default=3, show_default=True)
@_JSON
def leaderboard(n_trials: int, rounds: int, as_json: bool) -> None:
    """What a trial costs the table when there are many of them, against when there are few."""
    from tissuebench.perf.leaderboard import run

    run(stdout(), as_json, n_trials, rounds)
