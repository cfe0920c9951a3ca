"""Ingest of a recipe's images and annotations into one sealed TileStore, with its split.

An unusable slide is listed with the reason (``quarantine.json``) and does not stop the others. Slides are written one
by one, in any order and by any number of processes; finished slides survive any interruption, and the same command
picks up where it left off and arrives at the same content hash.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from tissuebench.common.cores import allotted_cores
from tissuebench.common.files import exclusive
from tissuebench.common.folders import made_aside
from tissuebench.common.hashing import Json, content_hash
from tissuebench.datasets.catalog.recipe import Generate, Recipe
from tissuebench.datasets.ingest.convert import Converted, Reading, SlideJob, convert, is_enlargement
from tissuebench.datasets.ingest.dataset import dataset_folder
from tissuebench.datasets.ingest.duplicates import judge_copies, shared_annotations
from tissuebench.datasets.ingest.fingerprint import fingerprint
from tissuebench.datasets.ingest.outcome import read_outcome, remember_origin, remembered_origin, write_outcome
from tissuebench.datasets.ingest.workers import Died, run_each
from tissuebench.datasets.manifest import BadRow, ManifestRow
from tissuebench.datasets.splits import Split, official_split, random_split, stratum_of
from tissuebench.datasets.store.pyramid import Codec
from tissuebench.datasets.store.slide_writer import Provenance
from tissuebench.datasets.store.store_writer import Case, StoreWriter
from tissuebench.datasets.store.tile_store import StoreInfo, TileStore
from tissuebench.datasets.types import StainNormalisation
from tissuebench.datasets.weak_labels import MIN_SHARE
from tissuebench.errors import DataError

Progress = Callable[[str, int, int], None]
"""Callback with a description, the number done and the total."""

SPLIT_SEED = 0
_BYTES_PER_PROCESS = 64 << 20
"""Source size per process: starting one takes a second or two and only pays off for more than this."""


@dataclass(frozen=True, slots=True)
class IngestOptions:
    """Options of an ingest.

    Attributes:
        workers: number of processes; None uses one per 64 MiB of source files, up to the number of cores.
        strict: stop at the first unusable slide instead of listing it.
        update: change a sealed store: add new slides, drop removed ones, convert changed ones again.
        codec: compression of the chunks; does not affect the content hash.
        stain: normalise every slide's stain to one reference, fitted slide by slide.
    """

    workers: int | None = None
    strict: bool = False
    update: bool = False
    codec: Codec = "lz4"
    stain: StainNormalisation = "none"


@dataclass(frozen=True, slots=True)
class Ingested:
    """Ingested dataset: its store and split, the slides that were refused, and notes on the dataset as a whole."""

    store: TileStore
    split: Split
    quarantine: tuple[BadRow, ...]
    notes: tuple[str, ...] = ()


def source_folder(home: Path, recipe: Recipe) -> Path:
    """Return the folder of fetched and generated source files; the same for all tile sizes of a dataset."""
    return dataset_folder(home, recipe.plain_name) / "raw"


def ensure_store(
    recipe: Recipe, home: Path, data_root: Path | None, progress: Progress, options: IngestOptions | None = None
) -> Ingested:
    """Open the dataset's store and split, creating them first if necessary.

    Args:
        recipe: the dataset.
        home: folder that contains ``data/``.
        data_root: the source files; may be None if the recipe generates them, they were fetched, the store exists, or
            they are where they were read from before.
        progress: called for every slide.
        options: options of the ingest.

    Raises:
        DataError: source missing or unusable as a whole, no slide usable, disk full, or store made from other files.
    """
    options = options or IngestOptions()
    folder = dataset_folder(home, recipe.name)
    store_path, split_path, raw = folder / "store.zarr", folder / "split.json", source_folder(home, recipe)
    if data_root is not None and not data_root.is_dir():
        raise DataError(f"data root {data_root}: no such folder")
    ready = store_path.exists() and split_path.exists() and not options.update
    if data_root is None and not ready:  # the source files of a sealed store are not checked again
        if recipe.generate is not None and not raw.is_dir():
            raw.parent.mkdir(parents=True, exist_ok=True)
            with exclusive(raw.parent):  # of two at once, the second waits and finds the files
                if not raw.is_dir():
                    _generate(recipe.generate, recipe.name, raw, progress)
        data_root = known_source(home, recipe)
    if data_root is not None:
        rows, bad = _checked(recipe.rows(data_root))
        prints = {row.slide_id: _Prints.of(row) for row in rows}
        pictures = {slide_id: one.picture for slide_id, one in prints.items() if one.picture is not None}
        copies, _ = judge_copies(rows, pictures, "the same file")
        rows, bad = _without(rows, copies), [*bad, *copies]
        if options.strict and bad:
            raise DataError(bad[0].reason)
        _published_split(recipe, rows)  # detect a patient in two parts before hours of work
        source = _source_hash(recipe, rows, bad, prints)
        if store_path.exists() and not options.update and TileStore(store_path).info.source_sha256 != source:
            raise DataError(
                f"{store_path}: was made from other files; 'tissuebench data ingest {recipe.name} --update' takes in "
                f"what changed, or delete {folder}"
            )
        if not store_path.exists() or options.update:
            folder.mkdir(parents=True, exist_ok=True)
            with exclusive(folder):
                if not store_path.exists() or options.update:
                    notes = recipe.notes(data_root) if recipe.notes else ()
                    _ingest(recipe, rows, bad, prints, source, folder, progress, options, notes)
                    if data_root != raw:
                        remember_origin(dataset_folder(home, recipe.plain_name), data_root)
        if not split_path.exists():
            sealed = TileStore(store_path)
            published = _published_split(recipe, [row for row in rows if row.slide_id in sealed.slides])
            (published or _drawn_split(recipe, sealed)).write(split_path)
    elif options.update:
        raise DataError(f"--update of dataset {recipe.name!r} needs its files (DATA_ROOT=… or --data-root …)")
    elif not store_path.exists():
        way = "run 'tissuebench data fetch " + recipe.name + "' or " if recipe.downloads else ""
        raise DataError(
            f"dataset {recipe.name!r} is not ingested yet: {way}give the folder of its files (DATA_ROOT=… or "
            f"--data-root …); {recipe.source}"
        )
    store, split = TileStore(store_path), Split.read(split_path)
    known = {slide.patient_id for slide in store.slides.values()}
    lost = sorted({patient for part in split.parts.values() for patient in part} - known)
    if lost:
        raise DataError(f"{split_path}: patient {lost[0]!r} is not in the store; delete {folder} to ingest again")
    return Ingested(store, split, *read_outcome(folder))


def known_source(home: Path, recipe: Recipe) -> Path | None:
    """Return the folder of a dataset's files: fetched, generated, or last read from, if it is still there."""
    raw = source_folder(home, recipe)
    if raw.is_dir():
        return raw
    origin = remembered_origin(dataset_folder(home, recipe.plain_name))
    return origin if origin is not None and origin.is_dir() else None


def _generate(generate: Generate, name: str, raw: Path, progress: Progress) -> None:
    with made_aside(raw) as aside:
        generate(aside, lambda done, total: progress(f"drawing {name} slides", done, total))


def _checked(found: Sequence[ManifestRow | BadRow]) -> tuple[list[ManifestRow], list[BadRow]]:
    """Return the rows to try, and the bad ones; if two slides share an id, both are bad."""
    rows = [row for row in found if isinstance(row, ManifestRow)]
    bad = [row for row in found if isinstance(row, BadRow)]
    times = Counter(row.slide_id for row in rows)
    for row in rows:
        if times[row.slide_id] > 1:
            files = ", ".join(str(other.image) for other in rows if other.slide_id == row.slide_id)
            reason = f"slide id {row.slide_id!r} appears {times[row.slide_id]} times ({files}); ids must be unique"
            bad.append(BadRow(row.slide_id, reason))
    rows = sorted((row for row in rows if times[row.slide_id] == 1), key=lambda row: row.slide_id)
    if not rows:
        raise DataError(f"none of {len(bad)} slides can be used; the first: {bad[0].reason}" if bad else "no slides")
    return rows, bad


def _without(rows: Sequence[ManifestRow], bad: Sequence[BadRow]) -> list[ManifestRow]:
    """Return the rows that are not bad; an error if none is left."""
    refused = {row.slide_id for row in bad}
    good = [row for row in rows if row.slide_id not in refused]
    if not good:
        raise DataError(f"none of {len(bad)} slides can be used; the first: {bad[0].reason}")
    return good


@dataclass(frozen=True, slots=True)
class _Prints:
    """Fingerprints of a row: of its picture file, None if it is none, and of all that its slide is made from."""

    picture: str | None
    slide: str

    @classmethod
    def of(cls, row: ManifestRow) -> _Prints:
        image = fingerprint(row.image)
        # Earlier fingerprints stay valid where nothing new is said.
        chosen: list[Json] = [row.series, row.frame] if row.series or row.frame else []
        return cls(
            # Of a folder only the names and sizes of its files are known: two slides may have the same.
            picture=content_hash([image, row.series]) if row.image.is_file() and row.image.stat().st_size else None,
            slide=content_hash([image, fingerprint(row.annotation), row.mpp, row.reader, *chosen]),
        )


def _source_hash(
    recipe: Recipe, rows: Sequence[ManifestRow], bad: Sequence[BadRow], prints: Mapping[str, _Prints]
) -> str:
    """Return a hash of everything that a store is made from: the recipe, the manifest and its files."""
    classes = recipe.class_map
    made_of: dict[str, Json] = {
        "recipe": [recipe.name, recipe.version, recipe.tile_px, _reading(recipe, "none").document()],
        "costs": recipe.costs.document(),
        "classes": [list(classes.names), {name: list(allowed) for name, allowed in classes.diagnoses.items()}],
        "rows": [[r.slide_id, r.patient_id, list(r.diagnosis), list(r.tags or ()), r.split] for r in rows],
        "files": [prints[row.slide_id].slide for row in rows],
        "bad": sorted(row.slide_id for row in bad),
    }
    if recipe.min_tag_share != MIN_SHARE:  # the default is left out, so that existing hashes stay valid
        made_of["min_tag_share"] = recipe.min_tag_share
    if recipe.white is not None:
        made_of["white"] = asdict(recipe.white)
    return content_hash(made_of)


def _published_split(recipe: Recipe, rows: Sequence[ManifestRow]) -> Split | None:
    """Return the split that the rows declare; None if they declare none."""
    assigned = [row for row in rows if row.split]
    if not assigned:
        return None
    if len(assigned) < len(rows):
        missing = next(row for row in rows if not row.split)
        raise DataError(f"{recipe.name}: slide {missing.slide_id!r} has no split but others do; fill in all or none")
    name = recipe.split_name or f"{recipe.plain_name}-official"
    return official_split(name, ((row.patient_id, row.split) for row in rows))


def _drawn_split(recipe: Recipe, store: TileStore) -> Split:
    """Return a random split of the store's patients."""
    diagnoses: dict[str, list[str]] = defaultdict(list)
    annotated: set[str] = set()
    for slide in store.slides.values():
        diagnoses[slide.patient_id] += store.withheld.diagnosis(slide.slide_id)
        if any(store.withheld.class_pixels(slide.slide_id)):
            annotated.add(slide.patient_id)
    strata = {patient: stratum_of(found) for patient, found in diagnoses.items()}
    return random_split(f"{recipe.plain_name}-random", strata, annotated, SPLIT_SEED)


def _ingest(
    recipe: Recipe,
    rows: Sequence[ManifestRow],
    bad: Sequence[BadRow],
    prints: Mapping[str, _Prints],
    source: str,
    folder: Path,
    progress: Progress,
    options: IngestOptions,
    notes: Sequence[str],
) -> None:
    reading = _reading(recipe, options.stain)
    writer = StoreWriter(
        folder / "store.zarr",
        StoreInfo(
            dataset=recipe.name,
            mpp=recipe.mpp,
            tile_px=recipe.tile_px,
            costs=recipe.costs,
            source_sha256=source,
            min_tag_share=recipe.min_tag_share,
            white=recipe.white,
            stain=options.stain,
        ),
        recipe.class_map,
        options.codec,
        [recipe.version, reading.document()],
        options.update,
    )
    (folder / "split.json").unlink(missing_ok=True)  # it belongs to the store before the change
    finished = writer.finished()
    jobs = [
        SlideJob(
            writer.spec,
            reading,
            row.slide_id,
            row.image,
            row.annotation,
            row.mpp,
            row.reader,
            prints[row.slide_id].slide,
            row.series,
            row.frame,
            options.strict,
            None if recipe.white is None else recipe.white.label,
        )
        for row in rows
        if row.slide_id not in finished or finished[row.slide_id].fingerprint != prints[row.slide_id].slide
    ]
    if options.strict:
        _require_strict(set(finished) - {job.slide_id for job in jobs}, finished)
    refused = {row.slide_id: row.reason for row in bad}
    refusals = list(bad)
    full = False
    progress(f"ingesting {recipe.name}", len(rows) - len(jobs), len(rows))
    for number, (job, result) in enumerate(run_each(convert, jobs, _processes(jobs, options)), start=1):
        if isinstance(result, Died):
            result = Converted(reason=f"{job.image}: its process was killed ({result.exit_code}); out of memory?")
        if result.reason:
            if options.strict:
                raise DataError(result.reason)
            full |= result.disk_full
            refused[job.slide_id] = result.reason
            refusals.append(BadRow(job.slide_id, result.reason))
        progress(f"ingesting {recipe.name}", len(rows) - len(jobs) + number, len(rows))
    if full:
        raise DataError(
            f"{folder}: the disk is full; {len(refusals) - len(bad)} of {len(rows)} slides are not in yet, the others "
            "are kept: free some disk space and run the same command again"
        )
    good = [row for row in rows if row.slide_id not in refused]
    copies, note = judge_copies(good, writer.pictures(), "pixel by pixel the same")
    if copies and options.strict:
        raise DataError(copies[0].reason)
    try:
        good = _without(good, [*refusals, *copies])
    except DataError:
        writer.discard()
        raise
    noted = [*notes, *filter(None, (note, shared_annotations(good)))]
    write_outcome(folder, [*refusals, *copies], noted)
    writer.seal({row.slide_id: Case(row.patient_id, row.diagnosis, row.tags) for row in good})


def _require_strict(kept: Collection[str], finished: Mapping[str, Provenance]) -> None:
    """Raise if a slide that an earlier ingest finished without ``strict`` has a note that ``strict`` refuses."""
    for slide_id in sorted(kept):
        for note in finished[slide_id].notes:
            if is_enlargement(note):
                raise DataError(f"slide {slide_id!r}: {note}")


def _reading(recipe: Recipe, stain: StainNormalisation) -> Reading:
    return Reading(
        recipe.mpp,
        recipe.drawing_order,
        recipe.instance_class,
        recipe.region_class,
        recipe.background,
        recipe.ignore_index,
        stain,
        recipe.frame,
        recipe.class_names,
        recipe.mask_values,
    )


def _processes(jobs: Sequence[SlideJob], options: IngestOptions) -> int:
    if options.workers is not None:
        return min(options.workers, len(jobs))
    total = sum(job.image.stat().st_size for job in jobs if job.image.is_file())
    return min(allotted_cores(), len(jobs), 1 + total // _BYTES_PER_PROCESS)
