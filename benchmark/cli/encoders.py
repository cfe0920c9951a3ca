"""``tissuebench encoders``: which encoders there are, and whether one can be used here."""

from __future__ import annotations

import json
from dataclasses import asdict

import click

from tissuebench.cli.common import AS_JSON, Commands, example


@click.group(cls=Commands, epilog=example("tissuebench encoders check uni"))
def encoders() -> None:
    """List the encoders of pathology that the suite knows, and check one, or a file of weights."""


@encoders.command("list", epilog=example("tissuebench encoders list"))
@AS_JSON
def list_(as_json: bool) -> None:
    """List foundation encoders: patch, width, size, resolution, licence, and whether access must be requested.

    Any other network of timm with feature maps or patch tokens can be used by its timm name, any of the hub as
    hf-hub:OWNER/NAME.
    """
    from tissuebench.methods.networks.encoder_catalogue import CATALOGUE

    entries = list(CATALOGUE.values())
    if as_json:
        names = ("name", "title", "hub", "architecture", "patch", "dim", "parameters", "licence", "gated", "mpps")
        click.echo(json.dumps([{name: getattr(entry, name) for name in names} for entry in entries]))
        return
    rows = [("name", "encoder", "patch", "width", "params", "µm/px", "licence", "access", "hub")]
    rows += [
        (
            entry.name,
            entry.title,
            str(entry.patch),
            str(entry.dim),
            f"{entry.parameters} M",
            "/".join(f"{mpp:g}" for mpp in entry.mpps) or "-",
            entry.licence,
            "on request" if entry.gated else "open",
            entry.hub,
        )
        for entry in entries
    ]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


@encoders.command(epilog=example("tissuebench encoders check weights/uni.bin --encoder uni"))
@click.argument("name_or_path")
@click.option("--encoder", metavar="NAME", help="Encoder of a file; by default the one of the list that it fits.")
@click.option("--weights", metavar="WEIGHTS", help="Weights of a name: timm (published; the default), package, none.")
@click.option("--tile-px", type=click.IntRange(16, 4096), default=224, show_default=True, help="Edge of a tile.")
@AS_JSON
def check(name_or_path: str, encoder: str | None, weights: str | None, tile_px: int, as_json: bool) -> None:
    """Load NAME_OR_PATH, encode a tile, and report: maps, statistics, hash of the weights, size, speed.

    NAME_OR_PATH is a name of the list or of timm, hf-hub:OWNER/NAME, or the path of a file (.safetensors, .pt, .pth,
    .bin) or of a folder in the hub's layout. Nothing in a file is run.
    """
    from tissuebench.inspection.encoder_check import check_encoder

    report = check_encoder(name_or_path, encoder, weights, tile_px)
    if as_json:
        click.echo(json.dumps(asdict(report)))
        return
    for line in report.lines():
        click.echo(line)
