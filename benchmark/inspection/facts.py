"""Facts about an ingested data set, counted from its store: for display only, never for training."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from tissuebench.datasets.ingest.convert import LEVEL0_MPP, UNKNOWN
from tissuebench.datasets.manifest import PARTS, BadRow
from tissuebench.datasets.splits import Split
from tissuebench.datasets.store.shards import read_layout
from tissuebench.datasets.store.slide_writer import Provenance, written_slides
from tissuebench.datasets.store.tile_store import TileStore

NO_PART = "not in the split"
_CODECS = {"blosc": "lz4", "zstd": "zstd", "none": "none"}


@dataclass(frozen=True, slots=True)
class SlideFacts:
    """Facts about one slide.

    Attributes:
        part: part of the split, or ``NO_PART``.
        diagnosis: diagnosis of its case, sorted; empty if unknown.
        height, width: size in pixels at the store's mpp.
        n_tiles: number of tiles of the store's tile size.
        tissue, annotated: share of the slide's area, 0..1.
        class_pixels: annotated pixels of each class.
        notes: what was chosen, repaired or clipped.
        level0_mpp: micrometres per pixel of the slide's own level 0; None if unknown.
    """

    slide_id: str
    patient_id: str
    part: str
    diagnosis: tuple[str, ...]
    height: int
    width: int
    n_tiles: int
    tissue: float
    annotated: float
    class_pixels: tuple[int, ...]
    notes: tuple[str, ...]
    level0_mpp: float | None


@dataclass(frozen=True, slots=True)
class PartFacts:
    """Facts about one part of the split, or all of it.

    Attributes:
        diagnoses: number of patients with each diagnosis; a mixed one is written ``a;b``, an unknown one as the empty
            string.
        class_pixels: annotated pixels of each class.
        tissue, annotated: share of the area of all its slides, 0..1.
        mask_hours, tags_hours, diagnosis_hours: cost of labelling all of it.
    """

    name: str
    n_slides: int
    n_patients: int
    n_tiles: int
    diagnoses: Mapping[str, int]
    class_pixels: tuple[int, ...]
    tissue: float
    annotated: float
    mask_hours: float
    tags_hours: float
    diagnosis_hours: float

    @property
    def class_shares(self) -> tuple[float, ...]:
        """Share of each class in the annotated pixels, 0..1; all 0 if nothing is annotated."""
        total = sum(self.class_pixels)
        return tuple(pixels / total if total else 0.0 for pixels in self.class_pixels)


@dataclass(frozen=True, slots=True)
class Inspection:
    """Facts about a whole data set; ``slides`` are sorted by part and id, ``parts`` are those that have any slides.

    Attributes:
        notes: what the ingest noted on more than one slide.
        gaps: what is missing from the parts of the split and will be missing from the tables, one line each.
    """

    dataset: str
    title: str
    licence: str
    split_name: str
    content_hash: str
    codec: str
    bytes_on_disk: int
    everything: PartFacts
    parts: tuple[PartFacts, ...]
    slides: tuple[SlideFacts, ...]
    quarantine: tuple[BadRow, ...]
    notes: tuple[str, ...]
    gaps: tuple[str, ...]

    @property
    def n_noted(self) -> int:
        """Number of slides with a note."""
        return sum(bool(slide.notes) for slide in self.slides)

    @property
    def diagnoses(self) -> tuple[str, ...]:
        """All diagnoses, sorted."""
        return tuple(sorted(self.everything.diagnoses))


def inspect_store(
    store: TileStore,
    split: Split,
    quarantine: Sequence[BadRow],
    title: str,
    licence: str,
    notes: Sequence[str] = (),
) -> Inspection:
    """Collect the facts about a data set from its store.

    Raises:
        DataError: a record or table of the store is damaged.
    """
    part_of = {patient: part for part in PARTS for patient in split.patients(part)}
    provenance, labels = written_slides(store.path), store.withheld
    slides = []
    for slide in store.slides.values():
        class_pixels = labels.class_pixels(slide.slide_id)
        origin = provenance.get(slide.slide_id, Provenance())
        slides.append(
            SlideFacts(
                slide_id=slide.slide_id,
                patient_id=slide.patient_id,
                part=part_of.get(slide.patient_id, NO_PART),
                diagnosis=tuple(sorted(labels.diagnosis(slide.slide_id))),
                height=slide.height,
                width=slide.width,
                n_tiles=len(store.tile_tissue(slide.slide_id)),
                tissue=slide.tissue_fraction,
                annotated=sum(class_pixels) / (slide.height * slide.width),
                class_pixels=class_pixels,
                notes=origin.notes,
                level0_mpp=_mpp_of(origin),
            )
        )
    order = [*PARTS, NO_PART]
    slides.sort(key=lambda slide: (order.index(slide.part), slide.slide_id))
    grouped = [(part, [slide for slide in slides if slide.part == part]) for part in order]
    return Inspection(
        dataset=store.info.dataset,
        title=title,
        licence=licence,
        split_name=split.name,
        content_hash=store.content_hash,
        codec=_CODECS[read_layout(store.path / "slides" / slides[0].slide_id / "0").codec],
        bytes_on_disk=sum(path.stat().st_size for path in store.path.rglob("*") if path.is_file()),
        everything=_facts("all", slides, store),
        parts=tuple(_facts(part, members, store) for part, members in grouped if members),
        slides=tuple(slides),
        quarantine=tuple(quarantine),
        notes=tuple(notes),
        gaps=tuple(_gaps(slides, store.class_map.names)),
    )


def _mpp_of(origin: Provenance) -> float | None:
    said = origin.metadata.get(LEVEL0_MPP, UNKNOWN)
    return None if said == UNKNOWN else float(said)


def _gaps(slides: Sequence[SlideFacts], class_names: Sequence[str]) -> Iterator[str]:
    """Yield what each part lacks: slides, annotations, or a class that is annotated elsewhere."""
    everywhere = [any(slide.class_pixels[number] for slide in slides) for number in range(len(class_names))]
    for number, name in enumerate(class_names):
        if not everywhere[number]:
            yield f"class {name} is annotated nowhere"
    for part in PARTS:
        members = [slide for slide in slides if slide.part == part]
        if not members:
            yield f"{part} has no slide"
        elif not any(sum(slide.class_pixels) for slide in members):
            yield f"{part} has no annotated slide"
        else:
            for number, name in enumerate(class_names):
                if everywhere[number] and not any(slide.class_pixels[number] for slide in members):
                    yield f"class {name} is not annotated in {part}"


def _facts(name: str, slides: Sequence[SlideFacts], store: TileStore) -> PartFacts:
    patients: dict[str, set[str]] = {}
    for slide in slides:
        patients.setdefault(slide.patient_id, set()).update(slide.diagnosis)
    areas = [slide.height * slide.width for slide in slides]
    n_tiles = sum(slide.n_tiles for slide in slides)
    pixels = tuple(map(sum, zip(*(slide.class_pixels for slide in slides), strict=True)))
    costs = store.info.costs
    opening = len(slides) * costs.opening_minutes_per_slide
    return PartFacts(
        name=name,
        n_slides=len(slides),
        n_patients=len(patients),
        n_tiles=n_tiles,
        diagnoses=Counter(";".join(sorted(diagnosis)) for diagnosis in patients.values()),
        class_pixels=pixels,
        tissue=sum(slide.tissue * area for slide, area in zip(slides, areas, strict=True)) / sum(areas),
        annotated=sum(pixels) / sum(areas),
        mask_hours=(n_tiles * costs.mask_minutes_per_tile + opening) / 60,
        tags_hours=(n_tiles * costs.tags_minutes_per_tile + opening) / 60,
        diagnosis_hours=len(patients) * costs.diagnosis_minutes_per_case / 60,
    )
