"""Rendering of slides, and writing of the cohort: pyramidal TIFFs, QuPath-style annotations and the manifest."""

from __future__ import annotations

import csv
import multiprocessing
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import tifffile

from tissuebench.common.cores import allotted_cores
from tissuebench.common.spawning import main_left_alone
from tissuebench.datasets.synthetic.anatomy import CELL_PX, draw_anatomy
from tissuebench.datasets.synthetic.cohort import Patient, SyntheticConfig, cohort, stream
from tissuebench.datasets.synthetic.outlines import write_outlines
from tissuebench.datasets.synthetic.staining import develop, draw_scanner, draw_stain
from tissuebench.datasets.synthetic.tissues import paint
from tissuebench.datasets.synthetic.traits import draw_traits, draw_tumour

TILE_PX = 256
LEVELS = 3
JPEG_QUALITY = 90
MANIFEST_COLUMNS = ("slide_id", "patient_id", "image", "annotation", "diagnosis", "split")
FEW_SLIDES = 3


@dataclass(frozen=True)
class RenderedSlide:
    """A slide before compression.

    Attributes:
        image: (size_px, size_px, 3) uint8 RGB.
        labels: (size_px, size_px) uint8, index into ``CLASS_NAMES``.
    """

    image: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.uint8]


def render_slide(config: SyntheticConfig, patient: Patient) -> RenderedSlide:
    """Draw a patient's slide, a pure function of ``config.seed``, size, mpp and the patient's index."""

    def rng(purpose: str) -> np.random.Generator:
        return stream(config.seed, patient.index, purpose)

    traits = draw_traits(rng("traits"))
    tumour = draw_tumour(rng("tumour"), patient.diagnosis, traits)
    anatomy = draw_anatomy(rng("anatomy"), config.size_px, config.mpp, patient.diagnosis, traits)
    pigments = paint(rng("cells"), anatomy, traits, tumour)
    image = develop(rng("scan"), pigments, draw_stain(rng("stain")), draw_scanner(rng("scanner")))
    return RenderedSlide(image, anatomy.labels_px)


def write_synthetic(folder: Path, config: SyntheticConfig, progress: Callable[[int, int], None] | None = None) -> None:
    """Write the cohort into ``folder``: ``slides/``, ``annotations/`` and, last, ``manifest.csv``.

    Args:
        folder: created if it does not exist; files of the same names are overwritten.
        config: what to draw.
        progress: called with (slides done, total slides), first with 0 done.
    """
    patients = cohort(config)
    for name in ("slides", "annotations"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    report = progress or (lambda done, total: None)
    report(0, len(patients))
    workers = min(allotted_cores(), len(patients))
    if len(patients) <= FEW_SLIDES or workers < 2:
        for done, patient in enumerate(patients, start=1):
            write_slide(folder, config, patient)
            report(done, len(patients))
    else:
        with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
            with main_left_alone():  # the first jobs start the processes
                pending = [pool.submit(write_slide, folder, config, patient) for patient in patients]
            for done, finished in enumerate(as_completed(pending), start=1):
                finished.result()
                report(done, len(patients))
    _write_manifest(folder, patients)


def write_slide(folder: Path, config: SyntheticConfig, patient: Patient) -> None:
    """Draw and write one patient's slide and annotation; the subfolders must exist."""
    slide = render_slide(config, patient)
    write_pyramid(folder / image_path(patient), slide.image, config.mpp)
    write_outlines(folder / annotation_path(patient), patient.slide_id, slide.labels[::CELL_PX, ::CELL_PX], CELL_PX)


def image_path(patient: Patient) -> Path:
    """Return the path of a patient's image, relative to the cohort's folder."""
    return Path("slides", f"{patient.slide_id}.tif")


def annotation_path(patient: Patient) -> Path:
    """Return the path of a patient's annotation, relative to the cohort's folder."""
    return Path("annotations", f"{patient.slide_id}.geojson")


def write_pyramid(path: Path, image: npt.NDArray[np.uint8], mpp: float) -> None:
    """Write a tiled JPEG pyramid: each level is a page of the main chain, and all but the first are marked reduced."""
    with tifffile.TiffWriter(path) as writer:
        for level in range(LEVELS):
            per_cm = 1e4 / (mpp * 2**level)
            writer.write(
                image,
                photometric="rgb",
                tile=(TILE_PX, TILE_PX),
                compression="jpeg",
                compressionargs={"level": JPEG_QUALITY},
                subfiletype=1 if level else 0,
                resolution=(per_cm, per_cm),
                resolutionunit="CENTIMETER",
                metadata=None,
                software=False,
            )
            image = _halve(image)


def _halve(image: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    height, width = image.shape[0] // 2, image.shape[1] // 2
    blocks = image[: 2 * height, : 2 * width].reshape(height, 2, width, 2, 3).astype(np.uint16)
    return np.asarray((blocks.sum(axis=(1, 3)) + 2) // 4, dtype=np.uint8)


def _write_manifest(folder: Path, patients: tuple[Patient, ...]) -> None:
    with (folder / "manifest.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(MANIFEST_COLUMNS)
        for patient in patients:
            image, annotation = image_path(patient).as_posix(), annotation_path(patient).as_posix()
            row = (patient.slide_id, patient.patient_id, image, annotation, patient.diagnosis, patient.split)
            writer.writerow(row)
