"""``tissuebench predict``: segment a slide with a finished trial's model."""

from __future__ import annotations

from pathlib import Path

import click

from tissuebench.cli.common import HOME, Command, example, stderr


@click.command(
    cls=Command,
    short_help="Segment a slide with a trained method.",
    epilog=example("tissuebench predict slides/S01.svs --trial 3f9a --out S01_predicted"),
)
@click.argument("slide", type=click.Path(path_type=Path))
@click.option(
    "--trial", "trial_id", metavar="ID", required=True, help="Id of a finished trial, or its first characters."
)
@click.option(
    "--out", type=click.Path(path_type=Path), help="Folder to create; default: SLIDE-ID in the current folder."
)
@click.option("--mpp", type=float, help="Micrometres per pixel of SLIDE; overrides the file.")
@click.option("--reader", default="", help="tifffile, openslide, ome-zarr or plain; default: chosen from the suffix.")
@click.option("--overwrite", is_flag=True, help="Replace an earlier prediction.")
@HOME
def predict(
    slide: Path, trial_id: str, out: Path | None, mpp: float | None, reader: str, overwrite: bool, home: Path
) -> None:
    """Segment SLIDE with a trained method and print the folder that was created.

    It holds labels.geojson for QuPath, labels.ome.zarr for napari, areas.csv with the area of each class in mm², and
    prediction.json with the provenance.
    """
    from tissuebench.common.progress import ProgressDisplay
    from tissuebench.prediction.predict import PredictionRequest
    from tissuebench.prediction.predict import predict as predict_slide

    with ProgressDisplay(stderr()) as display:
        try:
            made = predict_slide(PredictionRequest(slide, trial_id, home, out, mpp, reader, overwrite), display.phase)
        except KeyboardInterrupt:
            raise KeyboardInterrupt("nothing was written; the same command starts over") from None
        for warning in made.warnings:
            display.note(f"warning: {warning}")
        for area in made.areas:
            size = "" if area.area_mm2 is None else f"  {area.area_mm2:.4g} mm²"
            display.note(f"{area.name:20} {area.share:7.2%}{size}")
    click.echo(made.folder)
