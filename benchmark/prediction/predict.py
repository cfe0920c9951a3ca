"""Prediction (``tissuebench predict``): from a slide file and a finished trial to a folder of viewable files."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tissuebench.common.files import write_aside
from tissuebench.common.folders import made_aside
from tissuebench.common.hashing import Json, content_hash
from tissuebench.datasets.ingest.convert import fit_stain
from tissuebench.datasets.ingest.fingerprint import fingerprint
from tissuebench.datasets.readers import Slide
from tissuebench.datasets.store.digest import RasterDigest
from tissuebench.datasets.store.pyramid import blocks
from tissuebench.datasets.types import ClassMap
from tissuebench.errors import DataError
from tissuebench.evaluation.canvas import LabelCanvas
from tissuebench.evaluation.gpu_counts import CanvasWriter
from tissuebench.evaluation.stitching import ImageWindows, Stitching, Strip, strips
from tissuebench.prediction.areas import ClassArea, class_areas, count_pixels, write_areas
from tissuebench.prediction.case import CaseCall, call_case
from tissuebench.prediction.geojson import OutlineSettings, write_geojson
from tissuebench.prediction.label_blocks import Labels
from tissuebench.prediction.load_method import Trained
from tissuebench.prediction.open_slide import Pixels, open_trained_on, picture_of
from tissuebench.prediction.options import PredictionOptions
from tissuebench.prediction.pyramid import write_label_pyramid
from tissuebench.prediction.summary import RECORD, SUMMARY, write_summary
from tissuebench.prediction.tissue import Ground, ReadPixels, Shown, tissue_of
from tissuebench.runtime.environment import describe_environment
from tissuebench.runtime.machine import detect_machine

PYRAMID, GEOJSON, AREAS = "labels.ome.zarr", "labels.geojson", "areas.csv"
GEOJSON_GZ = f"{GEOJSON}.gz"
_MEGAPIXEL = 1_000_000

Progress = Callable[[str, int, int], None]
"""Called with the current activity, the amount done and the total."""


@dataclass(frozen=True, slots=True)
class Prediction:
    """Result of a prediction.

    Attributes:
        folder: folder with all files.
        areas: areas by class, as in areas.csv.
        case: diagnosis by area share; None if the dataset has fewer than two.
        warnings: what may have degraded the prediction, one line each.
        notes: what the reader chose or changed, one line each.
    """

    folder: Path
    areas: tuple[ClassArea, ...]
    case: CaseCall | None
    warnings: tuple[str, ...]
    notes: tuple[str, ...]


class Predictor:
    """A finished trial's method, which predicts one slide after another; the network is loaded once.

    Args:
        trained: the trial.
        options: options for all slides.

    Examples:
        >>> predictor = Predictor(find_trained(Path("home"), "1c9ffe2a"), PredictionOptions(min_area_um2=100))
        >>> prediction = predictor.predict(Path("slide.tif"), Path("labelled"), lambda activity, done, total: None)
        >>> {area.name: area.share for area in prediction.areas}
    """

    def __init__(self, trained: Trained, options: PredictionOptions) -> None:
        self.trained, self.options = trained, options
        method = trained.method()
        self._machine = detect_machine(
            trained.trial.network.encoder_mode, allows_float16=method.allows_float16(method.config)
        )
        self._method = method.to(self._machine.device)

    def predict(self, path: Path, folder: Path, progress: Progress) -> Prediction:
        """Predict a slide and write labels.ome.zarr, labels.geojson, areas.csv, predictions.csv and prediction.json.

        The folder appears once all of them are complete, and replaces an earlier one. Memory does not grow with the
        slide.

        Args:
            path: a file that ``datasets.readers`` can open.
            folder: folder to create.
            progress: called with the current activity.

        Raises:
            ConfigError: another process is writing the folder.
            DataError: the slide cannot be read, or its resolution is required and unknown; the disk is full.
        """
        options, folder = self.options, folder.resolve()
        slide, warnings = open_trained_on(
            path, self.trained.store.info.mpp, options.mpp, options.reader, options.series
        )
        with slide:
            outlines = options.outlines_of(slide)
            try:
                with made_aside(folder) as work:
                    areas, case = self._into(work, slide, outlines, warnings, progress)
            except OSError as error:
                raise DataError(f"{folder}: cannot be written ({error.strerror or error})") from error
            return Prediction(folder, tuple(areas), case, tuple(warnings), slide.notes)

    def _into(
        self, work: Path, slide: Slide, outlines: OutlineSettings, warnings: list[str], progress: Progress
    ) -> tuple[list[ClassArea], CaseCall | None]:
        trained, options, class_map = self.trained, self.options, self.trained.store.class_map
        started = time.perf_counter()
        with LabelCanvas(slide.height, slide.width, work) as canvas:
            read = self.reading(slide)
            self._fill(canvas, read, progress)
            tissue = tissue_of(read, slide.height, slide.width)
            predicted = time.perf_counter()
            if not tissue.any():
                warnings.append("no tissue was found on the slide: all of it looks like glass")
            ground = Ground.of(slide, tissue)
            on_tissue, on_glass = count_pixels(canvas, ground, len(class_map))
            areas = class_areas(on_tissue + on_glass if options.glass else on_tissue, class_map, slide.mpp)
            case = call_case(on_tissue, class_map)
            source = fingerprint(slide.path)
            write_geojson(
                work / (GEOJSON_GZ if options.compress else GEOJSON),
                Shown(canvas, ground, options.glass),
                class_map,
                slide.scale,
                content_hash([trained.key, source, slide.scale]),
                {"frame": options.frame_of(slide), "slide": slide.path.name, "trial": trained.key},
                outlines,
                progress=lambda done, total: progress("outlining blocks", done, total),
            )
            progress("writing the pyramid", 0, 1)
            write_label_pyramid(work / PYRAMID, canvas, class_map, slide.mpp, *picture_of(slide))
            progress("writing the pyramid", 1, 1)
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
        machine = self._machine
        record: dict[str, Json] = {
            "slide": _slide(slide),
            "trial": _trial(trained),
            "options": options.document(),
            "mpp": slide.mpp,
            "scale": slide.scale,
            "height": slide.height,
            "width": slide.width,
            "frame": options.frame_of(slide),
            "tissue_pixels": int(on_tissue.sum()),
            "glass_pixels": int(on_glass.sum()),
            "classes": _classes(class_map, areas, on_tissue, on_glass),
            "case": None if case is None else case.document(),
            "warnings": list(warnings),
            "notes": list(slide.notes),
            "hashes": hashes,
            "seconds": {what: round(value, 3) for what, value in seconds.items()},
            "environment": {**describe_environment(), "device": str(machine.device), "precision": machine.precision},
        }
        write_summary(work / SUMMARY, [record])
        write_aside(work / RECORD, (json.dumps(record, indent=1) + "\n").encode())
        return areas, case

    def reading(self, slide: Slide) -> ReadPixels:
        """Return a function that reads the slide in the stain of those that the method was trained on."""
        normalise = fit_stain(self.trained.store.info.stain, slide)

        def read(y: int, x: int, height: int, width: int) -> Pixels:
            pixels = slide.region(y, x, height, width)
            return pixels if normalise is None else normalise.apply(pixels)

        return read

    def _fill(self, canvas: LabelCanvas, read: ReadPixels, progress: Progress) -> None:
        done, total = 0, canvas.height * canvas.width
        megapixels = -(-total // _MEGAPIXEL)
        progress("predicting megapixels", 0, megapixels)
        writer = CanvasWriter(canvas)
        for strip in self.strips(read, canvas.height, canvas.width):
            writer.write(strip.labels, strip.y, strip.x)
            done += strip.labels.numel()
            progress("predicting megapixels", done * megapixels // total, megapixels)
        writer.finish()

    def strips(self, read: ReadPixels, height: int, width: int) -> Iterator[Strip]:
        """Predict a whole slide in the way slides are scored, see ``stitching.strips``."""
        trained, machine = self.trained, self._machine
        how = Stitching.of(trained.trial.evaluation, trained.store.info.tile_px, machine.device, machine.precision)

        def planes(y: int, x: int, height: int, width: int) -> Pixels:
            return read(y, x, height, width).transpose(2, 0, 1)

        return strips(self._method, ImageWindows(planes, how), height, width, len(trained.store.class_map), how)


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
        "bounds": None if slide.bounds is None else slide.bounds._asdict(),
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


def _classes(
    class_map: ClassMap, areas: list[ClassArea], on_tissue: NDArray[np.int64], on_glass: NDArray[np.int64]
) -> list[Mapping[str, Json]]:
    counts = zip(class_map.colors, areas, on_tissue.tolist(), on_glass.tolist(), strict=True)
    return [
        {"value": value, "color": list(color), **asdict(area), "tissue_pixels": tissue, "glass_pixels": glass}
        for value, (color, area, tissue, glass) in enumerate(counts)
    ]
