"""Conversion of one source slide into the store, as a job that any process can run."""

from __future__ import annotations

import errno
import traceback
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np

from tissuebench.common.hashing import Json
from tissuebench.datasets.annotations import Frame, LabelSource, open_annotation
from tissuebench.datasets.color.stain import FittedNormaliser, normaliser
from tissuebench.datasets.ingest.placement import LabelSample, Placed
from tissuebench.datasets.readers import Slide, blank_notes, open_slide, require_brightfield, require_colour
from tissuebench.datasets.store.shards import Pixels
from tissuebench.datasets.store.slide_writer import Provenance, StoreSpec, write_slide
from tissuebench.datasets.store.tissue import tissue_mask
from tissuebench.datasets.types import IGNORE_LABEL, FrameName, StainNormalisation
from tissuebench.errors import DataError, TissueBenchError

LEVEL0_MPP, UNKNOWN = "level0_mpp", "unknown"
"""Key of a slide's own resolution in its metadata, and its value where the file does not say."""
_THUMBNAIL_PX = 1024
_SAMPLED_REGIONS, _SAMPLED_PX = 24, 256
_ENLARGED = 1.01
"""A slide up to 1 % coarser than the store is not called enlarged: scanners round their magnifications."""
_ENLARGED_BY = "enlarged"


@dataclass(frozen=True, slots=True)
class Reading:
    """Reading options for the files of a dataset; the fields are documented in ``Recipe``."""

    mpp: float | None
    drawing_order: tuple[str, ...] | None = None
    instance_class: str | None = None
    region_class: str | None = None
    background: str | None = None
    ignore_index: int | None = None
    stain: StainNormalisation = "none"
    frame: FrameName = "auto"
    class_names: Mapping[str, str | None] = field(default_factory=dict)
    mask_values: Mapping[int, str | None] = field(default_factory=dict)

    def document(self) -> dict[str, Json]:
        """Return the fields for a hash; later ones only where they say something, so that earlier hashes stay valid."""
        fields = asdict(self)
        later = {"frame": "auto", "class_names": {}, "mask_values": {}}
        document = {name: value for name, value in fields.items() if name not in later or value != later[name]}
        if self.mask_values:  # keys of JSON are text
            document["mask_values"] = {str(value): name for value, name in self.mask_values.items()}
        return document


@dataclass(frozen=True, slots=True)
class SlideJob:
    """One slide to convert.

    Attributes:
        fingerprint: stored with the slide.
        frame: overrides that of ``reading``.
        strict: refuse what is otherwise only noted.
        white: class of glass, whose labels need not lie on tissue.
    """

    spec: StoreSpec
    reading: Reading
    slide_id: str
    image: Path
    annotation: Path | None
    mpp: float | None
    reader: str
    fingerprint: str
    series: str = ""
    frame: FrameName | None = None
    strict: bool = False
    white: str | None = None


@dataclass(frozen=True, slots=True)
class Converted:
    """Outcome of a job: ``reason`` is empty if the slide is in the store."""

    notes: tuple[str, ...] = ()
    reason: str = ""
    disk_full: bool = False
    trace: str = ""


def convert(job: SlideJob) -> Converted:
    """Convert one slide; any failure becomes a one-line ``reason``."""
    try:
        return Converted(notes=_convert(job))
    except TissueBenchError as error:
        return Converted(reason=str(error))
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        reason = f"{job.spec.folder}: the disk is full" if full else f"{type(error).__name__}: {error}"
        return Converted(reason=" ".join(reason.split()), disk_full=full)
    except Exception as error:  # a slide that triggers a bug of ours must not stop the others
        reason = f"{job.image}: {type(error).__name__}: {error}"
        return Converted(reason=" ".join(reason.split()), trace=traceback.format_exc())


def _convert(job: SlideJob) -> tuple[str, ...]:
    with open_slide(job.image, job.reading.mpp, job.mpp, job.reader, job.series) as slide:
        thumbnail = slide.thumbnail(_THUMBNAIL_PX)
        require_brightfield(thumbnail, str(job.image))
        require_colour(thumbnail, str(job.image))
        reading = job.reading
        enlarged = _enlargement(slide)
        if enlarged and job.strict:
            raise DataError(f"{job.image}: {enlarged}")
        labels: LabelSource | None = None
        if job.annotation is not None:
            labels = open_annotation(
                job.annotation,
                job.spec.class_map,
                Frame(slide.level0_size, (slide.height, slide.width), slide.scale, slide.bounds),
                reading.drawing_order,
                region_class=reading.region_class,
                background=reading.background,
                instance_class=reading.instance_class,
                ignore_index=reading.ignore_index,
                coordinates=job.frame or reading.frame,
                class_names=reading.class_names,
                mask_values=reading.mask_values,
            )
        fitted = fit_stain(reading.stain, slide)
        facts: dict[str, str] = {
            "file": job.image.name,
            "level0_px": f"{slide.level0_size[1]} x {slide.level0_size[0]}",
            LEVEL0_MPP: UNKNOWN if slide.level0_mpp is None else f"{slide.level0_mpp:.4g}",
            **_as_text(slide.metadata),
        }
        notes = (*slide.notes, *([enlarged] if enlarged else []), *blank_notes(thumbnail))
        provenance = Provenance(job.fingerprint, notes, facts)
        return write_slide(job.spec, job.slide_id, _Source(job, slide, labels, fitted), provenance)


def _enlargement(slide: Slide) -> str:
    """Return a note if the slide is coarser than the store; empty if it is not."""
    if slide.scale * _ENLARGED >= 1 or slide.level0_mpp is None:
        return ""
    return (
        f"{_ENLARGED_BY} {1 / slide.scale:.3g} times: the file has {slide.level0_mpp:.4g} µm a pixel, the dataset "
        f"{slide.mpp:.4g}; it lacks the details of slides scanned finer"
    )


def is_enlargement(note: str) -> bool:
    """Return whether a slide's note says that it is coarser than the store, which ``strict`` refuses."""
    return note.startswith(_ENLARGED_BY)


class _Source:
    """Pixels and labels of one slide; implements ``SlideSource``."""

    def __init__(
        self, job: SlideJob, slide: Slide, annotation: LabelSource | None, normalise: FittedNormaliser | None
    ) -> None:
        self.job, self.slide, self.annotation, self.normalise = job, slide, annotation, normalise
        self._sample = LabelSample(slide.height, slide.width)

    @property
    def height(self) -> int:
        return self.slide.height

    @property
    def width(self) -> int:
        return self.slide.width

    def image(self, y: int, x: int, height: int, width: int) -> Pixels:
        pixels = self.slide.region(y, x, height, width)
        return pixels if self.normalise is None else self.normalise.apply(pixels)

    def labels(self, y: int, x: int, height: int, width: int) -> Pixels:
        if self.annotation is None:
            return np.full((height, width), IGNORE_LABEL, np.uint8)
        raster = self.annotation.raster(y, x, height, width)
        self._sample.add(raster, y, x)
        return raster

    def finish(self, tissue: Pixels) -> tuple[str, ...]:
        if self.annotation is None:
            return ()
        notes = self.annotation.finish()
        white = self.job.white
        placed = self._sample.placed(tissue, self.job.spec.class_map.names, white)
        if placed is None or placed.is_plausible:
            return notes
        remedy = self._remedy(tissue, placed, self.annotation.offset)
        off = f"{placed.on_tissue:.0%} of its labels lie on tissue{remedy}"
        explained = not placed.is_hardly_on_tissue and not remedy  # loose tissue, drawn around
        if explained or (self.job.frame or self.job.reading.frame) != "auto":
            return (*notes, f"only {off}")
        raise DataError(
            f"{self.job.annotation}: only {off}; if they are right where they are, write 'slide' in the manifest's "
            "column 'frame'"
        )

    def _remedy(self, tissue: Pixels, placed: Placed, offset: tuple[int, int]) -> str:
        """Say which other frame, or else which shift, would put the labels on tissue; empty if none is known."""
        bounds, scale = self.slide.bounds, self.slide.scale
        if bounds is not None:
            y, x = offset
            frame, to = ("slide", (0, 0)) if (y, x) != (0, 0) else ("bounds", (bounds.y, bounds.x))
            share = self._sample.share_on_tissue(tissue, (round((to[0] - y) / scale), round((to[1] - x) / scale)))
            if share > max(0.5, placed.on_tissue):
                return f", but {share:.0%} if it is drawn on the {_FRAMES[frame]} (frame '{frame}')"
        if placed.shift is not None:
            y, x = (round(side * scale) for side in placed.shift)
            return f", and nearly all would if moved by about x {x:+d}, y {y:+d} px (level 0)"
        return ""


_FRAMES = {"slide": "whole slide", "bounds": "scanned part of the slide"}


def fit_stain(name: StainNormalisation, slide: Slide) -> FittedNormaliser | None:
    """Return the mapping from the slide's stain to the reference, fitted on regions spread evenly over its tissue.

    Returns:
        None if ``name`` is "none".

    Raises:
        DataError: there is not enough tissue to fit on.
    """
    if name == "none":
        return None
    thumbnail = slide.thumbnail(_THUMBNAIL_PX)
    tissue = np.argwhere(tissue_mask(thumbnail) > 0)
    if not len(tissue):
        return normaliser(name).fit(thumbnail.reshape(-1, 3))  # raises with the reason
    chosen = tissue[np.unique(np.linspace(0, len(tissue) - 1, _SAMPLED_REGIONS).astype(int))]
    ratio = slide.height / thumbnail.shape[0], slide.width / thumbnail.shape[1]
    regions = []
    for row, column in chosen.tolist():
        y = max(0, min(int((row + 0.5) * ratio[0]) - _SAMPLED_PX // 2, slide.height - _SAMPLED_PX))
        x = max(0, min(int((column + 0.5) * ratio[1]) - _SAMPLED_PX // 2, slide.width - _SAMPLED_PX))
        height, width = min(_SAMPLED_PX, slide.height), min(_SAMPLED_PX, slide.width)
        regions.append(slide.region(y, x, height, width).reshape(-1, 3))
    return normaliser(name).fit(np.concatenate(regions))


def _as_text(metadata: Mapping[str, str]) -> dict[str, str]:
    return {str(key): str(value) for key, value in metadata.items()}
