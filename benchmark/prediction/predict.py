"""Prediction (``tissuebench predict``): from a slide file and a finished trial to a folder of viewable files."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tissuebench.common.files import write_aside
from tissuebench.common.folders import made_aside, require_free
from tissuebench.common.hashing import Json, content_hash
from tissuebench.datasets.ingest.convert import fit_stain
from tissuebench.datasets.ingest.fingerprint import fingerprint
from tissuebench.datasets.readers import Slide
from tissuebench.datasets.store.digest import RasterDigest
from tissuebench.datasets.store.pyramid import blocks
from tissuebench.datasets.types import ClassMap
from tissuebench.errors import DataError
from tissuebench.evaluation.canvas import LabelCanvas
from tissuebench.evaluation.stitching import Stitching, strips
from tissuebench.methods.api.method import Method
from tissuebench.prediction.areas import ClassArea, class_areas, write_areas
from tissuebench.prediction.geojson import write_geojson
from tissuebench.prediction.label_blocks import Labels
from tissuebench.prediction.load_method import Trained, find_trained
from tissuebench.prediction.open_slide import Pixels, open_trained_on, picture_of
from tissuebench.prediction.pyramid import write_label_pyramid
from tissuebench.runtime.environment import describe_environment
from tissuebench.runtime.machine import Machine, detect_machine

PYRAMID, GEOJSON, AREAS, RECORD = "labels.ome.zarr", "labels.geojson", "areas.csv", "prediction.json"
_MEGAPIXEL = 1_000_000

Progress = Callable[[str, int, int], None]
"""Called with the current activity, the amount done and the total."""


@dataclass(frozen=True, slots=True)
class PredictionRequest:
    """Inputs and options of a prediction.

    Attributes:
        slide: a file that ``datasets.readers`` can open.
        trial: beginning of a finished trial's id.
        home: folder with the trial and the store that it was trained on.
        out: folder to create; None creates one in the current folder, named after slide and trial.
        mpp: micrometres per pixel of the slide's level 0, overriding the value in the file.
        reader: name of the reader; empty selects it by the suffix.
        overwrite: replace an earlier prediction in ``out``.
    """

    slide: Path
    trial: str
    home: Path
    out: Path | None = None
    mpp: float | None = None
    reader: str = ""
    overwrite: bool = False


@dataclass(frozen=True, slots=True)
class Prediction:
    """Result of a prediction: the folder, areas by class, and one line per warning about what may have degraded it."""

    folder: Path
    areas: tuple[ClassArea, ...]
    warnings: tuple[str, ...]


def predict(request: PredictionRequest, progress: Progress) -> Prediction:
    """Predict a slide and write labels.ome.zarr, labels.geojson, areas.csv and prediction.json.

    The folder appears once all of them are complete. Memory does not grow with the slide.

    Raises:
        ConfigError: no such trial, or it has not finished; the folder exists.
        DataError: the slide cannot be read, or its resolution is required and unknown; weights or store are missing;
            the disk is full.

    Examples:
        >>> request = PredictionRequest(Path("slide.tif"), trial="1c9ffe2a", home=Path("home"))
        >>> prediction = predict(request, progress=lambda activity, done, total: None)
        >>> {area.name: area.share for area in prediction.areas}
    """
    trained = find_trained(request.home, request.trial)
    method = trained.method()
    name = request.slide.stem.removesuffix(".ome")
    out = (request.out or Path(f"{name}-{trained.key[:8]}")).resolve()
    require_free(out, RECORD, request.overwrite)
    slide, warnings = open_trained_on(request.slide, trained.store.info.mpp, request.mpp, request.reader)
    with slide:
        try:
            with made_aside(out) as work:
                areas = _into(work, slide, trained, method, tuple(warnings), progress)
        except OSError as error:
            raise DataError(f"{out}: cannot be written ({error.strerror or error})") from error
    return Prediction(out, tuple(areas), tuple(warnings))


def _into(
    work: Path, slide: Slide, trained: Trained, method: Method[Any], warnings: tuple[str, ...], progress: Progress
) -> list[ClassArea]:
    class_map, machine = trained.store.class_map, detect_machine(trained.trial.network.encoder_mode)
    started = time.perf_counter()
    with LabelCanvas(slide.height, slide.width, work) as canvas:
        _fill(canvas, slide, trained, method.to(machine.device), machine, progress)
        predicted = time.perf_counter()
        source = fingerprint(slide.path)
        write_geojson(
            work / GEOJSON,
            canvas,
            class_map,
            slide.scale,
            content_hash([trained.key, source, slide.scale]),
            {"slide": slide.path.name, "trial": trained.key},
            progress=lambda done, total: progress("outlining blocks", done, total),
        )
        progress("writing the pyramid", 0, 1)
        write_label_pyramid(work / PYRAMID, canvas, class_map, slide.mpp, *picture_of(slide))
        progress("writing the pyramid", 1, 1)
        areas = class_areas(canvas, class_map, slide.mpp)
        write_areas(work / AREAS, areas)
        hashes: dict[str, Json] = {
            "slide": source,
            "labels": _hash_of(canvas),
            "weights": trained.weights_sha256,
            "store": trained.trial.store_sha256,
            "split": trained.trial.split_sha256,
            "budget": trained.trial.budget.sha256,
        }
    seconds = {"predict": predicted - started, "write": time.perf_counter() - predicted}
    record: dict[str, Json] = {
        "slide": _slide(slide),
        "trial": _trial(trained),
        "mpp": slide.mpp,
        "scale": slide.scale,
        "height": slide.height,
        "width": slide.width,
        "classes": _classes(class_map, areas),
        "warnings": list(warnings),
        "hashes": hashes,
        "seconds": {what: round(value, 3) for what, value in seconds.items()},
        "environment": {**describe_environment(), "device": str(machine.device), "precision": machine.precision},
    }
    write_aside(work / RECORD, (json.dumps(record, indent=1) + "\n").encode())
    return areas


def _fill(
    canvas: LabelCanvas, slide: Slide, trained: Trained, method: Method[Any], machine: Machine, progress: Progress
) -> None:
    """Predict the whole slide in the way slides are scored, in the stain of those that the method was trained on."""
    info = trained.store.info
    normalise = fit_stain(info.stain, slide)
    how = Stitching.of(trained.trial.evaluation, info.tile_px, machine.device, machine.precision)

    def read(y: int, x: int, height: int, width: int) -> Pixels:
        pixels = slide.region(y, x, height, width)
        return (pixels if normalise is None else normalise.apply(pixels)).transpose(2, 0, 1)

    done, total = 0, slide.height * slide.width
    megapixels = -(-total // _MEGAPIXEL)
    progress("predicting megapixels", 0, megapixels)
    n_classes = len(trained.store.class_map)
    for strip in strips(method, read, slide.height, slide.width, n_classes, how):
        canvas.write(strip.classes, strip.y, strip.x)
        done += strip.classes.size
        progress("predicting megapixels", done * megapixels // total, megapixels)


def _hash_of(labels: Labels) -> str:
    """Return the hash that a store would have for these labels."""
    digest = RasterDigest((labels.height, labels.width))
    for block in blocks(labels.height, labels.width):
        digest.update(labels.read(*block))
    return digest.hexdigest()


def _slide(slide: Slide) -> dict[str, Json]:
    height, width = slide.level0_size
    return {
        "file": slide.path.name,
        "height": height,
        "width": width,
        "mpp": slide.level0_mpp,
        "metadata": {str(key): str(value) for key, value in slide.metadata.items()},
    }


def _trial(trained: Trained) -> dict[str, Json]:
    trial = trained.trial
    return {
        "id": trained.key,
        "title": trial.label,
        "dataset": trial.dataset,
        "method": trial.arm,
        "budget": trial.budget.spec,
        "seed": trial.seed,
        "mpp": trained.store.info.mpp,
        "stain": trained.store.info.stain,
        "evaluation": trial.evaluation.model_dump(mode="json"),
    }


def _classes(class_map: ClassMap, areas: list[ClassArea]) -> list[Mapping[str, Json]]:
    return [
        {"value": value, "color": list(color), **asdict(area)}
        for value, (color, area) in enumerate(zip(class_map.colors, areas, strict=True))
    ]
