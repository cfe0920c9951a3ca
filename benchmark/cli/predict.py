"""``tissuebench predict``: a slide of one's own, labelled by a finished trial."""

from __future__ import annotations

from pathlib import Path

import click

from tissuebench.cli.common import HOME, stderr


@click.command()
@click.argument("slide", type=click.Path(path_type=Path))
@click.option("--trial", "trial_id", metavar="ID", required=True, help="A finished trial, by the beginning of its id.")
@click.option("--out", type=click.Path(path_type=Path), help="Folder to make; by default here, called SLIDE-ID.")
@click.option("--mpp", type=float, help="Micrometres a pixel of SLIDE, in place of what the file says.")
@click.option("--reader", default="", help="'tifffile', 'openslide', 'ome-zarr' or 'plain'; by default by the suffix.")
@click.option("--overwrite", is_flag=True, help="Replace an earlier prediction.")
@HOME
def predict(
    slide: Path, trial_id: str, out: Path | None, mpp: float | None, reader: str, overwrite: bool, home: Path
) -> None:
    """Label SLIDE with a trained method, and print the folder that was made.

    In it: labels.geojson for QuPath, labels.ome.zarr for napari, areas.csv with square millimetres of each class, and
    prediction.json, which says what was made from what.
    """
    from tissuebench.common.progress import ProgressDisplay
    from tissuebench.prediction.predict import PredictionRequest
    from tissuebench.prediction.predict import predict as predict_slide

    with ProgressDisplay(stderr()) as display:
        try:
            made = predict_slide(PredictionRequest(slide, trial_id, home, out, mpp, reader, overwrite), display.phase)
        except KeyboardInterrupt:
            raise KeyboardInterrupt("nothing was written; the same command begins anew") from None
        for warning in made.warnings:
            display.note(f"warning: {warning}")
        for area in made.areas:
            size = "" if area.area_mm2 is None else f"  {area.area_mm2:.4g} mm²"
            display.note(f"{area.name:20} {area.share:7.2%}{size}")
    click.echo(made.folder)
