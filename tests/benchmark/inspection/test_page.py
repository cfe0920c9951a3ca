"""The page of a data set: its numbers are those of the store, and nothing in a name gets out of its place."""

from __future__ import annotations

import io
import json
import re
import shutil
from collections import Counter
from html.parser import HTMLParser

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from rich.console import Console

from tissuebench.datasets.documents import read_hashed_json, write_hashed_json
from tissuebench.datasets.manifest import BadRow
from tissuebench.datasets.splits import Split
from tissuebench.datasets.store.store_writer import StoreWriter
from tissuebench.datasets.store.tile_store import StoreInfo
from tissuebench.datasets.store.tiling import grid
from tissuebench.datasets.types import ClassMap, LabelCosts
from tissuebench.inspection import page as inspect_page
from tissuebench.inspection.facts import inspect_store
from tissuebench.inspection.page import file_size, percent, summary, write_inspection
from tissuebench.inspection.tiles import TILES_PER_CLASS, write_tiles

VOID = {"meta", "img", "br", "hr", "input", "link", "col"}
EVIL = "<script>alert(1)</script>"
QUOTED = "\"'><img src=x onerror=alert(2)>"
PICTURE = r"thumbnails/S\d\.jpg|tiles/S\d-\d+-\d+(-annotated)?\.jpg"
CLASSES = ClassMap(
    (EVIL, "b&b", QUOTED), ((10, 20, 30), (200, 0, 0), (0, 0, 200)), {EVIL: ("b&b",), "{{ 7*7 }}": (QUOTED,)}
)


class Page(HTMLParser):
    """A page that closes what it opens; its elements, and the text in them."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.open: list[str] = []
        self.text: dict[str, str] = {}
        self.visible = ""
        self.tables: dict[str, list[list[str]]] = {}
        self._ids: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        names = [name for name, _ in attrs]
        assert len(names) == len(set(names)), (tag, names)
        self.elements.append((tag, dict(attrs)))
        if tag in VOID:
            return
        self.open.append(tag)
        self._ids.append(dict(attrs).get("id") or (self._ids[-1] if self._ids else ""))
        if tag == "tr":
            self.tables.setdefault(self._ids[-1], []).append([])
        if tag in ("td", "th"):
            self.tables[self._ids[-1]][-1].append("")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag, self.getpos()
        self._ids.pop()

    def handle_data(self, data):
        if not self.open or self.open[-1] in ("script", "style"):
            return
        self.visible += data
        if self._ids[-1]:
            self.text[self._ids[-1]] = self.text.get(self._ids[-1], "") + data
        if {"td", "th"} & set(self.open):
            self.tables[self._ids[-1]][-1][-1] += data

    def all(self, tag, css_class=None):
        return [a for t, a in self.elements if t == tag and css_class in (None, *(a.get("class") or "").split())]

    def row(self, table, name):
        (found,) = [row[1:] for row in self.tables[table] if row[0].strip() == name]
        return [value.replace("\u202f", "") for value in found]


def thumbnails(page):
    return [image["src"] for image in page.all("img") if image["src"].startswith("thumbnails/")]


def store_of(folder, slides, classes=CLASSES, mpp=0.5):
    """``slides``: (slide, patient, diagnoses, height, width); the first third is class 0, the next 2, the rest open."""
    writer = StoreWriter(folder / "store.zarr", StoreInfo("toy", mpp, 32, LabelCosts(3, 0.5, 1)), classes)
    rng = np.random.default_rng(0)
    for slide_id, patient, diagnosis, height, width in slides:
        labels = np.full((height, width), 255, np.uint8)
        labels[: height // 3] = 0
        labels[height // 3 : 2 * height // 3, ::2] = 2
        image = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
        tissue = np.ones((-(-height // 16), -(-width // 16)), np.uint8)
        writer.add(slide_id, patient, diagnosis, image, labels, tissue)
    return writer.seal()


@pytest.fixture(scope="module")
def hostile(tmp_path_factory):
    """A store, split and quarantine whose names try to be more than names; its page is written."""
    home = tmp_path_factory.mktemp("home")
    folder = home / "data" / "toy"
    folder.mkdir(parents=True)
    store = store_of(
        folder,
        [
            ("S1", EVIL, (EVIL,), 90, 120),
            ("S2", EVIL, (EVIL,), 60, 70),
            ("S3", QUOTED, (EVIL, "{{ 7*7 }}"), 48, 64),
            ("S4", "javascript:x", (), 40, 40),
            ("S5", "nowhere", ("{{ 7*7 }}",), 33, 35),
        ],
    )
    record = store.path / "records" / "S2.json"
    write_hashed_json(record, {**read_hashed_json(record)[0], "notes": [f"clipped {EVIL}"]})
    split = Split(f"official {QUOTED}", {"train": (EVIL,), "val": (QUOTED,), "test": ("javascript:x",)})
    bad = (BadRow("../../etc/passwd", f"{EVIL} is no slide"), BadRow(QUOTED, "cut off"))
    path = write_inspection(home, folder, store, split, bad, f"title {EVIL}", f"licence {QUOTED} https://example.org")
    return store, split, bad, path


def test_the_page_is_well_formed_and_holds_no_element_of_a_name(hostile):
    *_, path = hostile
    text = path.read_text()
    page = Page(text)
    assert len(page.all("script")) == 1
    assert not [name for _, attributes in page.elements for name in attributes if name.startswith("on")]
    pictures = {image["src"] for image in page.all("img")}
    assert {name for name in pictures if "tiles" not in name} == {f"thumbnails/S{n}.jpg" for n in range(1, 6)}
    for name in (EVIL, QUOTED, "{{ 7*7 }}", "b&b", "../../etc/passwd", "javascript:x"):
        assert name in page.visible
    script = text[text.index("<script>") : text.index("</script>")]
    assert "alert" not in script


def test_the_page_fetches_nothing_and_names_no_folder_of_the_machine(hostile):
    *_, path = hostile
    page = Page(path.read_text())
    for tag, attributes in page.elements:
        assert tag not in ("link", "iframe", "object", "embed", "base", "form")
        for name in ("src", "href", "srcset", "action"):
            assert re.fullmatch(PICTURE, attributes.get(name) or "thumbnails/S1.jpg")
        assert "url(" not in (attributes.get("style") or "")
    assert "url(" not in path.read_text()
    assert "default-src 'none'" in page.all("meta")[3]["content"]
    assert str(path.parents[3]) not in path.read_text()
    assert "data/toy/store.zarr" in page.visible


def test_what_is_linked_is_there_and_nothing_else(hostile):
    store, *_, path = hostile
    folder = path.parent
    found = {entry.relative_to(folder).as_posix() for entry in folder.rglob("*") if entry.is_file()}
    linked = {value for _, one in Page(path.read_text()).elements for name, value in one.items() if name == "href"}
    assert found == {"index.html", *linked}
    assert {f"thumbnails/S{number}.jpg" for number in range(1, 6)} < linked
    assert not [entry for entry in folder.parent.iterdir() if entry.name not in ("store.zarr", "inspect")]
    for slide_id in store.slides:
        copied = folder / "thumbnails" / f"{slide_id}.jpg"
        assert copied.read_bytes() == (store.path / "thumbnails" / f"{slide_id}.jpg").read_bytes()


def test_the_numbers_are_those_of_the_store(hostile):
    store, split, bad, path = hostile
    page = Page(path.read_text())
    labels, slides = store.withheld, list(store.slides.values())
    assert page.text["n-slides"] == "5"
    assert page.text["n-patients"] == "4"
    assert page.text["content-hash"] == store.content_hash
    assert page.text["n-quarantine"] == "2"
    assert int(page.text["n-tiles"]) == sum(len(grid(slide, 32)) for slide in slides)
    size = sum(entry.stat().st_size for entry in store.path.rglob("*") if entry.is_file())
    assert file_size(size) in page.visible
    assert [row[0] for row in page.tables["quarantine"][1:]] == [row.slide_id for row in bad]

    groups = [slides, *([s for s in slides if s.patient_id in split.patients(p)] for p in ("train", "val", "test"))]
    groups.append([s for s in slides if s.patient_id == "nowhere"])
    assert page.tables["patients"][0][1:] == ["all", "train", "val", "test", "not in the split"]
    assert page.row("patients", "slides") == [str(len(group)) for group in groups]
    assert page.row("patients", "patients") == ["4", "1", "1", "1", "1"]
    assert page.row("patients", f"with {EVIL}") == ["1", "1", "0", "0", "0"]  # two slides, one patient
    assert page.row("patients", "with unknown diagnosis") == ["1", "0", "0", "1", "0"]
    tiles = [sum(len(grid(slide, 32)) for slide in group) for group in groups]
    assert page.row("patients", "tiles") == [str(count) for count in tiles]
    assert "those of at least 1.0 % of its annotated pixels" in page.visible
    assert page.row("costs", "masks of all tiles") == [f"{count * 3 / 60:.1f}" for count in tiles]
    assert page.row("costs", "classes of all tiles") == [f"{count * 0.5 / 60:.1f}" for count in tiles]
    for number, name in enumerate(CLASSES.names):
        shares = []
        for group in groups:
            pixels = np.sum([labels.class_pixels(slide.slide_id) for slide in group], axis=0)
            shares.append(percent(pixels[number] / pixels.sum()))
        assert page.row("classes", name) == shares
    assert page.row("classes", "b&b") == ["0.0 %"] * 5
    annotated = [
        sum(sum(labels.class_pixels(s.slide_id)) for s in group) / sum(s.height * s.width for s in group)
        for group in groups
    ]
    assert page.row("classes", "annotated, of all pixels") == [percent(share) for share in annotated]


def test_cards_carry_what_the_filter_asks_for(hostile):
    *_, path = hostile
    page = Page(path.read_text())
    cards = page.all("article")
    assert [card["data-part"] for card in cards] == ["0", "0", "1", "2", "3"]  # sorted by part, then id
    assert {card["data-classes"] for card in cards} == {"0 2 "}
    options = [attributes["value"] for attributes in page.all("option")]
    assert set(options) <= {"", "0", "1", "2", "3"}
    assert Counter(card["data-diagnosis"] for card in cards) == {"1": 2, "2": 1, "0": 1, "3": 1}
    assert f"clipped {EVIL}" in page.visible
    assert page.visible.count("clipped") == 1
    assert all(image["loading"] == "lazy" and int(image["width"]) > 0 for image in page.all("img"))


def test_a_part_of_many_slides_shows_a_seeded_choice(tmp_path, monkeypatch):
    monkeypatch.setattr(inspect_page, "MAX_THUMBNAILS", 4)
    store = store_of(tmp_path, [(f"S{number:02}", f"P{number}", (), 32, 32) for number in range(12)])
    split = Split("s", {"train": tuple(f"P{number}" for number in range(10)), "test": ("P10", "P11")})
    pages = [write_inspection(tmp_path, tmp_path, store, split, (), "t", "l").read_text() for _ in range(2)]
    assert pages[0] == pages[1]
    page = Page(pages[0])
    shown = thumbnails(page)
    assert len(shown) == 6
    assert shown == sorted(shown)
    assert shown[:4] != [f"thumbnails/S{number:02}.jpg" for number in range(4)]
    assert len(list((tmp_path / "inspect" / "thumbnails").iterdir())) == 6
    assert "4 of 10 slides" in page.visible
    assert page.text["n-slides"] == "12"
    assert "Left out" not in page.visible


def test_an_older_page_is_replaced_and_a_missing_thumbnail_is_said(tmp_path):
    store = store_of(tmp_path, [("S1", "P1", (), 32, 32), ("S2", "P2", (), 32, 32)], mpp=None)
    split = Split("s", {"train": ("P1", "P2")})
    write_inspection(tmp_path, tmp_path, store, split, (), "t", "l")
    (store.path / "thumbnails" / "S1.jpg").unlink()
    (store.path / "thumbnails" / "S2.jpg").write_bytes(b"no picture")
    path = write_inspection(tmp_path, tmp_path, store, split, (), "t", "l")
    page = Page(path.read_text())
    assert thumbnails(page) == []
    assert page.visible.count("no thumbnail") == 2
    assert list((path.parent / "thumbnails").iterdir()) == []
    assert "as it is" in page.visible  # no resolution


def test_tiles_are_those_of_the_store_and_their_annotation_is_drawn_on_them(hostile):
    store, *_, path = hostile
    groups = write_tiles(store, path.parent / "tiles")
    assert [group.name for group in groups] == [EVIL, QUOTED]  # nobody annotated the second class
    for group in groups:
        slides = {one.tile.slide_id for one in group.tiles}
        assert len(group.tiles) == TILES_PER_CLASS
        assert len(slides) == 5  # all of them, in turn
        for one in group.tiles:
            labels = store.withheld.masks([one.tile], 32)[0]
            assert (labels == CLASSES.names.index(group.name)).any()
            with Image.open(path.parent / "tiles" / one.picture) as image:
                assert image.size == (32, 32)
            with Image.open(path.parent / "tiles" / one.annotated) as image:
                drawn = np.asarray(image).astype(float)
            if (labels == 0).all():
                assert drawn.mean(axis=(0, 1))[0] < drawn.mean(axis=(0, 1))[2]  # the class's colour is (10, 20, 30)


def test_unannotated_stores_show_tiles_of_tissue(tmp_path):
    writer = StoreWriter(tmp_path / "store.zarr", StoreInfo("toy", 1.0, 32, LabelCosts()), CLASSES)
    tissue = np.zeros((6, 6), np.uint8)
    tissue[:2, :2] = 1
    writer.add("S1", "P1", (), np.full((96, 96, 3), 100, np.uint8), np.full((96, 96), 255, np.uint8), tissue)
    (group,) = write_tiles(writer.seal(), tmp_path)
    assert group.name is None
    assert [(one.tile.y, one.tile.x, one.annotated) for one in group.tiles] == [(0, 0, None)]


def test_what_the_parts_lack_is_said_first(tmp_path):
    store = store_of(tmp_path, [("S1", "P1", (), 64, 64), ("S2", "P2", (), 64, 64)])
    split = Split("s", {"train": ("P1",), "test": ("P2",)})
    path = write_inspection(tmp_path, tmp_path, store, split, (), "t", "l", ("two slides are one",))
    first = Page(path.read_text()).text["first"]
    assert "class b&b is annotated nowhere" in first
    assert "val has no slide" in first
    assert "two slides are one" in first
    assert "test has no" not in first


def test_each_slide_shows_its_own_resolution_and_its_notes(hostile):
    *_, path = hostile
    page = Page(path.read_text())
    assert page.visible.count("own resolution unknown") == 5
    assert page.text["n-noted"] == "1"


def test_a_store_of_nothing_annotated(tmp_path):
    writer = StoreWriter(tmp_path / "store.zarr", StoreInfo("toy", 1.0, 32, LabelCosts()), CLASSES)
    image = np.full((40, 40, 3), 100, np.uint8)
    writer.add("S1", "P1", (), image, np.full((40, 40), 255, np.uint8), np.ones((3, 3), np.uint8))
    store, split = writer.seal(), Split("s", {"train": ("P1",)})
    page = Page(write_inspection(tmp_path, tmp_path, store, split, (), "t", "l").read_text())
    assert page.row("classes", "annotated, of all pixels") == ["0.0 %", "0.0 %"]
    assert page.all("article")[0]["data-classes"] == ""


def test_the_summary_says_the_same(hostile):
    store, split, bad, _ = hostile
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(summary(store, split, bad, EVIL))
    text = " ".join(console.export_text().split())  # the caption is as wide as the table
    facts = inspect_store(store, split, bad, "", "")
    rule = "tags name classes of at least 1.0 % of a tile's annotated pixels"
    for expected in (EVIL, "b&b", "2 left out", store.content_hash[:16], str(facts.everything.n_tiles), rule):
        assert expected in text


def test_a_name_in_the_summary_is_no_markup(tmp_path):
    classes = ClassMap(("[bold]a", "[/]b", "c"), CLASSES.colors)
    store = store_of(tmp_path, [("S1", "P1", (), 32, 32)], classes)
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(summary(store, Split("s", {"train": ("P1",)}), (), "[red]title"))
    text = console.export_text()
    assert all(name in text for name in ("[bold]a", "[/]b", "[red]title"))


def test_the_tiny_data_set(tiny_data, tmp_path):
    folder = tmp_path / "data" / "tiny"
    shutil.copytree(tiny_data.home / "data" / "tiny", folder)
    path = write_inspection(tmp_path, folder, tiny_data.store, tiny_data.split, (), "tiny", "drawn")
    page = Page(path.read_text())
    assert path == folder / "inspect" / "index.html"
    assert len(page.all("article")) == 12
    assert page.row("patients", "with A") == ["6", "4", "1", "1"]
    manifest = json.loads((tiny_data.store.path / "manifest.json").read_text())["content"]["slides"]
    pixels = np.sum([record["class_pixels"] for record in manifest], axis=0)
    assert page.row("classes", "stroma")[0] == percent(pixels[1] / pixels.sum())


@given(st.integers(0, 10**16))
def test_a_file_size_is_right_to_three_figures(n_bytes):
    number, unit = file_size(n_bytes).split(" ")
    factor = {"B": 1, "kB": 1e3, "MB": 1e6, "GB": 1e9, "TB": 1e12}[unit]
    assert float(number) * factor == pytest.approx(n_bytes, rel=0.006)


@given(st.floats(0, 1))
def test_a_percentage_shows_what_is_there(share):
    text = percent(share)
    if share == 0:
        assert text == "0.0 %"
    elif share < 0.001:
        assert text == "< 0.1 %"
    else:
        assert float(text.removesuffix(" %")) == pytest.approx(100 * share, abs=0.0501)
