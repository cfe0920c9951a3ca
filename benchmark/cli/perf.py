"""``tissuebench perf``: benchmarks that print ratios measured within one run."""

from __future__ import annotations

from pathlib import Path

import click

from tissuebench.cli.common import AS_JSON, DATA_ROOT, DATASET, Commands, example, stdout


@click.group(cls=Commands, epilog=example("tissuebench perf tiles"))
def perf() -> None:
    """Run benchmarks: ratios measured within one run on this machine."""


@perf.command("all", epilog=example("tissuebench perf all --json"))
@AS_JSON
def everything(as_json: bool) -> None:
    """Measure the ratios that are to hold before a release, in one table."""
    from tissuebench.perf.release import run

    run(stdout(), as_json)


@perf.command(epilog=example("tissuebench perf losses --rounds 5"))
@click.option("--rounds", type=click.IntRange(min=1), default=10, show_default=True, help="Repetitions.")
@AS_JSON
def losses(rounds: int, as_json: bool) -> None:
    """Compare the complementary losses with the same formulas in plain PyTorch."""
    from tissuebench.perf.losses import run

    run(stdout(), as_json, rounds)


@perf.command(epilog=example("tissuebench perf tiles --size 4096"))
@click.option(
    "--size", "size_px", type=click.IntRange(min=2048), default=8192, show_default=True, help="Edge of the slide in px."
)
@AS_JSON
def tiles(size_px: int, as_json: bool) -> None:
    """Compare reading tiles from a store with OpenSlide, PNG files and memory maps."""
    from tissuebench.perf.tiles import run

    run(stdout(), as_json, size_px)


@perf.command(epilog=example("tissuebench perf loader --plan smoke"))
@click.option("--home", type=click.Path(file_okay=False, path_type=Path), help="Home folder whose store is used.")
@DATASET
@DATA_ROOT
@click.option("--plan", "plan_name", default="smoke", show_default=True, help="Plan whose training is timed.")
@AS_JSON
def loader(home: Path | None, dataset: str, data_root: Path | None, plan_name: str, as_json: bool) -> None:
    """Measure the cost of the data module against training on one constant batch."""
    from tissuebench.perf.loader import run

    run(stdout(), as_json, home, dataset, data_root, plan_name)


@perf.command(epilog=example("tissuebench perf scoring --rounds 1"))
@click.option("--home", type=click.Path(file_okay=False, path_type=Path), help="Home folder whose store is used.")
@click.option("--plan", "plan_name", default="smoke", show_default=True, help="Plan for network, steps and windows.")
@click.option("--rounds", type=click.IntRange(min=1), default=3, show_default=True, help="Scorings of each kind.")
@AS_JSON
def scoring(home: Path | None, plan_name: str, rounds: int, as_json: bool) -> None:
    """Compare scoring from cached features of windows with scoring from images."""
    from tissuebench.perf.scoring import run

    run(stdout(), as_json, home, plan_name, rounds)


@perf.command(epilog=example("tissuebench perf counting --size 4096"))
@click.option(
    "--size",
    "size_px",
    type=click.IntRange(min=2048),
    default=9000,
    show_default=True,
    help="Edge of the slide of which 1 % is annotated, in px.",
)
@click.option("--rounds", type=click.IntRange(min=1), default=3, show_default=True, help="Scorings of each kind.")
@AS_JSON
def counting(size_px: int, rounds: int, as_json: bool) -> None:
    """Compare how scoring counts with plain ways: kernels, threads, sparse annotations."""
    from tissuebench.perf.counting import run

    run(stdout(), as_json, size_px, rounds)


@perf.command(epilog=example("tissuebench perf sweep --tasks 20"))
@click.option(
    "--home", type=click.Path(file_okay=False, path_type=Path), help="Home folder whose embedded data is used."
)
@click.option(
    "--tasks",
    "--nodes",
    "n_tasks",
    type=click.IntRange(min=2),
    default=40,
    show_default=True,
    help="Tiny trials to run.",
)
@click.option("--slots", "n_slots", type=click.IntRange(min=1), default=2, show_default=True, help="Tasks at once.")
@AS_JSON
def sweep(home: Path | None, n_tasks: int, n_slots: int, as_json: bool) -> None:
    """Measure the overhead of a sweep of tiny tasks."""
    from tissuebench.perf.sweep import run

    run(stdout(), as_json, home, n_tasks, n_slots)


@perf.command(epilog=example("tissuebench perf masks --tiles 500"))
@click.option(
    "--tiles", "n_tiles", type=click.IntRange(min=1), default=1000, show_default=True, help="Tiles to annotate."
)
@AS_JSON
def masks(n_tiles: int, as_json: bool) -> None:
    """Measure the cost of pseudo-masks against the network passes that they need in any case."""
    from tissuebench.perf.masks import run

    run(stdout(), as_json, n_tiles)


@perf.command(epilog=example("tissuebench perf denoising --steps 50"))
@click.option(
    "--width", type=click.IntRange(min=8), default=32, show_default=True, help="Channels of the U-Net's finest level."
)
@click.option(
    "--multipliers", default="1,2,4", show_default=True, help="Channels of each level, in multiples of the width."
)
@click.option(
    "--patch", type=click.IntRange(1, 8), default=2, show_default=True, help="Edge of the pixel blocks seen as one."
)
@click.option("--tile-px", type=click.IntRange(16, 256), default=64, show_default=True, help="Edge of a tile in px.")
@click.option("--batch", type=click.IntRange(min=1), default=16, show_default=True, help="Tiles per step.")
@click.option("--steps", type=click.IntRange(min=1), default=200, show_default=True, help="Steps with each precision.")
@AS_JSON
def denoising(width: int, multipliers: str, patch: int, tile_px: int, batch: int, steps: int, as_json: bool) -> None:
    """Measure a step of diffusion pre-training, and compare learning in bf16 with float32."""
    from tissuebench.perf.denoising import run

    run(stdout(), as_json, width, multipliers, patch, tile_px, batch, steps)


@perf.command(epilog=example("tissuebench perf contrast --rounds 3"))
@click.option("--rounds", type=click.IntRange(min=1), default=5, show_default=True, help="Repetitions.")
@click.option(
    "--rep-stride",
    type=click.Choice(["1", "2", "4", "8", "16"]),
    default="4",
    show_default=True,
    help="Pixels between contrasted vectors.",
)
@AS_JSON
def contrast(rounds: int, rep_stride: str, as_json: bool) -> None:
    """Measure the cost of pixel contrast against the supervised step, at the published sizes."""
    from tissuebench.perf.contrast import run

    run(stdout(), as_json, rounds, int(rep_stride))


@perf.command(epilog=example("tissuebench perf gpu --rounds 2"))
@click.option("--device", type=click.Choice(["cuda", "cpu"]), default="cuda", show_default=True, help="Where to train.")
@click.option("--encoder", default="resnet34", show_default=True, help="Encoder of the U-Net, with random weights.")
@click.option("--batch", type=click.IntRange(min=2), default=32, show_default=True, help="Tiles per step.")
@click.option("--tile-px", type=click.IntRange(64, 1024), default=256, show_default=True, help="Edge of a tile in px.")
@click.option("--rounds", type=click.IntRange(min=1), default=5, show_default=True, help="Blocks of each kind.")
@click.option("--home", type=click.Path(file_okay=False, path_type=Path), help="Home folder whose store is used.")
@AS_JSON
def gpu(device: str, encoder: str, batch: int, tile_px: int, rounds: int, home: Path | None, as_json: bool) -> None:
    """Measure the share of a bare loop's speed that training reaches on this GPU."""
    from tissuebench.perf.gpu import run

    run(stdout(), as_json, device, encoder, batch, tile_px, rounds, home)


@perf.command(epilog=example("tissuebench perf leaderboard --trials 500"))
@click.option(
    "--trials",
    "n_trials",
    type=click.IntRange(min=200),
    default=1000,
    show_default=True,
    help="Trials in the large table.",
)
@click.option("--rounds", type=click.IntRange(min=1), default=3, show_default=True, help="Repetitions.")
@AS_JSON
def leaderboard(n_trials: int, rounds: int, as_json: bool) -> None:
    """Measure how the time per trial of the leaderboard grows with the number of trials."""
    from tissuebench.perf.leaderboard import run

    run(stdout(), as_json, n_trials, rounds)
