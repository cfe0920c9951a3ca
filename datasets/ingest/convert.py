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
from tissuebench.datasets.readers import Slide, open_slide, require_brightfield
from tissuebench.datasets.store.shards import Pixels
from tissuebench.datasets.store.slide_writer import Provenance, StoreSpec, write_slide
from tissuebench.datasets.store.tissue import tissue_mask
from tissuebench.datasets.types import IGNORE_LABEL, FrameName, StainNormalisation
from tissuebench.errors import TissueBenchError

_THUMBNAIL_PX = 1024
_SAMPLED_REGIONS, _SAMPLED_PX = 24, 256


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
    """One slide to convert; ``fingerprint`` is stored with it, ``strict`` refuses what is otherwise only noted."""

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
        reading = job.reading
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
                class_names=reading.class_names,
                mask_values=reading.mask_values,
            )
        fitted = fit_stain(reading.stain, slide)
        facts: dict[str, str] = {
            "file": job.image.name,
            "level0_px": f"{slide.level0_size[1]} x {slide.level0_size[0]}",
            "level0_mpp": "unknown" if slide.level0_mpp is None else f"{slide.level0_mpp:.4g}",
            **_as_text(slide.metadata),
        }
        provenance = Provenance(job.fingerprint, slide.notes, facts)
        return write_slide(job.spec, job.slide_id, _Source(slide, labels, fitted), provenance)


@dataclass(frozen=True, slots=True)
class _Source:
    slide: Slide
    annotation: LabelSource | None
    normalise: FittedNormaliser | None

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
        return self.annotation.raster(y, x, height, width)

    def finish(self, tissue: Pixels) -> tuple[str, ...]:
        return () if self.annotation is None else self.annotation.finish()


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
