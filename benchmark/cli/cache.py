"""``tissuebench cache``: the features of frozen encoders on disk."""

from __future__ import annotations

from pathlib import Path

import click

from tissuebench.cli.common import AS_JSON, EXISTING_HOME, Commands, example, stdout


@click.group(cls=Commands, epilog=example("tissuebench cache list"))
def cache() -> None:
    """List or clear the features of frozen encoders in runs/features."""


@cache.command("list", epilog=example("tissuebench cache list --json"))
@AS_JSON
@EXISTING_HOME
def cache_list(as_json: bool, home: Path) -> None:
    """List cached features: encoder, weights, dataset, tiles or windows, size, last use."""
    import json
    import time
    from dataclasses import asdict

    from rich.table import Table
    from rich.text import Text

    from tissuebench.common.units import size_of
    from tissuebench.sweep.state.cached_features import cached_features

    features = cached_features(home)
    if as_json:
        click.echo(json.dumps([asdict(each) for each in features]))
        return
    if not features:
        click.echo("no features are cached")
        return
    table = Table(box=None, padding=(0, 1), header_style="bold")
    for name in ("encoder", "weights", "dataset", "features of", "shards", "size", "last used", ""):
        table.add_column(name, justify="right" if name in ("shards", "size") else "left", no_wrap=True)
    for each in features:
        when = time.strftime("%Y-%m-%d %H:%M", time.localtime(each.last_used))
        numbers = (str(each.shards), size_of(each.n_bytes), when, "in use" if each.is_in_use else "")
        table.add_row(*map(Text, (each.encoder, each.weights, each.dataset, each.of, *numbers)))
    stdout().print(table, soft_wrap=True)
    click.echo(f"{size_of(sum(each.n_bytes for each in features))} in all")


@cache.command("clear", epilog=example("tissuebench cache clear --unused-for 30"))
@click.option("--encoder", metavar="NAME", help="Only features by this encoder.")
@click.option("--dataset", metavar="NAME", help="Only features of this dataset.")
@click.option(
    "--unused-for", "days", metavar="DAYS", type=click.FloatRange(min=0), default=0.0, help="Only if unused for DAYS."
)
@AS_JSON
@EXISTING_HOME
def cache_clear(encoder: str | None, dataset: str | None, days: float, as_json: bool, home: Path) -> None:
    """Remove cached features, but none that a running sweep uses.

    A later run computes what it needs again.
    """
    import json
    from dataclasses import asdict

    from tissuebench.common.units import size_of
    from tissuebench.sweep.state.cached_features import clear_features

    cleared = clear_features(home, encoder, dataset, days)
    if as_json:
        click.echo(json.dumps(asdict(cleared)))
        return
    kept = f"; {_shards(cleared.kept_shards)}, {size_of(cleared.kept_bytes)}, in use" if cleared.kept_shards else ""
    click.echo(f"removed {_shards(cleared.shards)}, {size_of(cleared.n_bytes)}{kept}")


def _shards(count: int) -> str:
    return f"{count} shard" if count == 1 else f"{count} shards"
