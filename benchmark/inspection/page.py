"""Inspection page of a data set: ``index.html`` with thumbnails, which works offline, in print and on a phone.

Names come from data files and may contain anything: the template escapes all of them, and only ids that are safe as
file names become part of a path. The page shows labels; no training code reads it.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.resources import files
from pathlib import Path

import numpy as np
from jinja2 import Environment, StrictUndefined
from PIL import Image
from rich.markup import escape
from rich.table import Table

from tissuebench.common.folders import made_aside
from tissuebench.common.hashing import derive_seed
from tissuebench.datasets.documents import require_safe_id
from tissuebench.datasets.manifest import BadRow
from tissuebench.datasets.splits import Split
from tissuebench.datasets.store.tile_store import StoreInfo, TileStore
from tissuebench.inspection.facts import Inspection, SlideFacts, inspect_store
from tissuebench.inspection.tiles import ClassTiles, write_tiles

MAX_THUMBNAILS = 300
"""Maximum per part of the split; a page of thousands loads slowly and nobody looks at all of them."""

_PAGE, _THUMBNAILS, _TILES = "index.html", "thumbnails", "tiles"
Size = tuple[int, int]


@dataclass(frozen=True, slots=True)
class _Section:
    """Slides of one part that are on the page, each with the size of its thumbnail if it has one."""

    name: str
    slides: tuple[tuple[SlideFacts, Size | None], ...]
    n_left_out: int


def write_inspection(
    home: Path,
    dataset_folder: Path,
    store: TileStore,
    split: Split,
    quarantine: Sequence[BadRow],
    recipe_title: str,
    licence: str,
    notes: Sequence[str] = (),
) -> Path:
    """Write ``inspect/`` in the data set's folder, replacing an older one, and return its ``index.html``.

    Args:
        home: paths on the page are relative to it, so that the page reveals nothing about the machine.
        dataset_folder: folder of the data set.
        store: its store.
        split: its split.
        quarantine: slides that were left out.
        recipe_title: title of the data set.
        licence: licence of its images.
        notes: what the ingest noted on more than one slide.

    Raises:
        DataError: the store is damaged, or a slide id is not a valid file name.
    """
    data = inspect_store(store, split, quarantine, recipe_title, licence, notes)
    folder = dataset_folder / "inspect"
    with made_aside(folder) as aside:
        (aside / _THUMBNAILS).mkdir()
        (aside / _TILES).mkdir()
        sections = tuple(_sections(data, store.path / _THUMBNAILS, aside / _THUMBNAILS))
        shown_path = store.path.relative_to(home) if store.path.is_relative_to(home) else Path(store.path.name)
        tiles = write_tiles(store, aside / _TILES)
        shown = shown_path.as_posix()
        page = render(data, store.info, store.class_map.colors, store.class_map.names, sections, tiles, shown)
        (aside / _PAGE).write_text(page, encoding="utf-8")
    return folder / _PAGE


def render(
    data: Inspection,
    info: StoreInfo,
    colors: Sequence[tuple[int, int, int]],
    classes: Sequence[str],
    sections: Sequence[_Section],
    tiles: Sequence[ClassTiles],
    store_path: str,
) -> str:
    """Return the page as text."""
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {
        "count": lambda value: f"{value:,}".replace(",", "\u202f"),
        "percent": percent,
        "size": file_size,
        "hours": lambda value: f"{value:,.1f}".replace(",", "\u202f"),
        "number": lambda value: f"{value:g}",
        "diagnosis": lambda value: value.replace(";", " and ") or "unknown diagnosis",
    }
    template = environment.from_string(
        files("tissuebench.inspection").joinpath("templates/inspect.html").read_text("utf-8")
    )
    return template.render(
        data=data,
        info=info,
        classes=classes,
        colors=[f"rgb({red},{green},{blue})" for red, green, blue in colors],
        columns=[data.everything, *data.parts],
        sections=sections,
        tiles=tiles,
        slide_diagnoses=sorted({";".join(slide.diagnosis) for slide in data.slides}),
        resolution="as it is" if info.mpp is None else f"{info.mpp:g} µm/px",
        store_path=store_path,
        version=_version(),
    )


def summary(
    store: TileStore, split: Split, quarantine: Sequence[BadRow], recipe_title: str = "", licence: str = ""
) -> Table:
    """Summarise the page as a table for the terminal: slides, patients, tiles and classes of each part."""
    data = inspect_store(store, split, quarantine, recipe_title, licence)
    title = escape(": ".join(text for text in (data.dataset, recipe_title, licence) if text))
    left_out = f"{len(data.quarantine)} left out, " if data.quarantine else ""
    noted = f"notes on {data.n_noted} slides, " if data.n_noted else ""
    gaps = "".join(f"\n{escape(gap)}" for gap in data.gaps)
    caption = (
        f"{left_out}{noted}{file_size(data.bytes_on_disk)} on disk ({data.codec}), content {data.content_hash[:16]}\n"
        f"tags name classes of at least {percent(store.info.min_tag_share)} of a tile's annotated pixels{gaps}"
    )
    table = Table(title=title, caption=caption, title_justify="left", caption_justify="left")
    columns = [data.everything, *data.parts]
    table.add_column("")
    for facts in columns:
        table.add_column(facts.name, justify="right")
    for name, values in (
        ("slides", [f"{facts.n_slides:,}" for facts in columns]),
        ("patients", [f"{facts.n_patients:,}" for facts in columns]),
        ("tiles", [f"{facts.n_tiles:,}" for facts in columns]),
        ("annotated", [percent(facts.annotated) for facts in columns]),
        ("masks of all, hours", [f"{facts.mask_hours:,.1f}" for facts in columns]),
    ):
        table.add_row(name, *values)
    table.add_section()
    for number, name in enumerate(store.class_map.names):
        table.add_row(escape(name), *(percent(facts.class_shares[number]) for facts in columns))
    return table


def percent(share: float) -> str:
    """Format a share as a percentage; a share above 0 is never shown as 0."""
    return "< 0.1 %" if 0 < share < 0.001 else f"{100 * share:.1f} %"


def file_size(n_bytes: int) -> str:
    """Format a number of bytes with a unit."""
    size, units = float(n_bytes), ["B", "kB", "MB", "GB", "TB"]
    while size >= 1000 and len(units) > 1:
        size, units = size / 1000, units[1:]
    return f"{size:.3g} {units[0]}" if size < 1000 else f"{size:.0f} {units[0]}"


def _sections(data: Inspection, source: Path, target: Path) -> Iterator[_Section]:
    for facts in data.parts:
        members = [slide for slide in data.slides if slide.part == facts.name]
        rng = np.random.default_rng(derive_seed("inspect", data.content_hash, facts.name))
        kept = sorted(rng.permutation(len(members))[:MAX_THUMBNAILS].tolist())
        shown = tuple((members[index], _copy_thumbnail(members[index].slide_id, source, target)) for index in kept)
        yield _Section(facts.name, shown, len(members) - len(shown))


def _copy_thumbnail(slide_id: str, source: Path, target: Path) -> Size | None:
    """Copy a thumbnail and return its (width, height); None if it is missing or not a picture."""
    name = f"{require_safe_id('slide id', slide_id, str(source))}.jpg"
    try:
        with Image.open(source / name) as image:
            size = image.size
        shutil.copyfile(source / name, target / name)
    except OSError:
        return None
    return size


def _version() -> str:
    try:
        return version("tissuebench")
    except PackageNotFoundError:
        return ""
