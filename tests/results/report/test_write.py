"""The folder: complete, offline, the same bytes, and never in place of somebody else's files."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from tests.results.report.drawing import lined_up, quick_pdf
from tissuebench.errors import DataError
from tissuebench.results.report import write_report
from tissuebench.results.report.page import build


def contents(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_every_link_leads_to_a_file_and_every_file_is_linked(report):
    html = report.read_text()
    targets = {t for t in re.findall(r'(?:href|src)="([^"]*)"', html) if not t.startswith(("#", "data:"))}
    files = set(contents(report.parent)) - {"index.html", "report.json"}
    assert targets == files
    anchors = set(re.findall(r'href="#([^"]+)"', html))
    assert anchors <= set(re.findall(r' id="([^"]+)"', html))


def test_nothing_leads_out(report):
    for name, data in contents(report.parent).items():
        if name.endswith((".html", ".svg")):
            text = re.sub(r'xmlns(:\w+)?="[^"]*"|<!DOCTYPE svg[^>]*>', "", data.decode())
            assert not re.search(r"https?://|(?:src|href)=\"//", text), name
    assert "default-src 'none'" in report.read_text()


def test_names_from_data_are_text_everywhere(report):
    html = report.read_text()
    assert len(re.findall(r"<script\b", html)) == 2  # the data and the page's own
    assert "&lt;script&gt;alert(" in html
    assert "<b>tried</b>" not in html
    for name in contents(report.parent):
        assert re.fullmatch(r"(figures|images|data)/[a-z0-9-]+\.(svg|pdf|csv|png|jpg)|index\.html|report\.json", name)


def test_pictures_are_kept_once(report, few_subjects):
    tiles = [tile for s in few_subjects for shown in s.overlays.values() for tile in shown]
    distinct = {path.read_bytes() for t in tiles for path in (t.image, t.truth, t.prediction)}
    kept = {data for name, data in contents(report.parent).items() if name.startswith("images/")}
    assert kept <= distinct
    assert len(kept) == sum(name.startswith("images/") for name in contents(report.parent))


def test_the_summary_the_failure_and_the_provenance_are_on_the_page(report):
    html = report.read_text()
    for words in (
        "Findings",
        "CUDA out of memory",
        "2 of 3 trials, 1 failed",
        "CC BY 4.0",
        "settings of methods",
        "draw 0",
    ):
        assert words in html
    assert "<b>anatomical_contrast</b> with decay=0.95, global_training.steps=20000" in html


def test_the_same_bytes_twice(small, monkeypatch):
    quick_pdf(monkeypatch)  # test_figures has those of the real ones
    assert build(small, "title") == build(small, "title")


@pytest.fixture
def quick(monkeypatch):
    """A report of two files, without drawing."""
    monkeypatch.setattr(
        "tissuebench.results.report.page.build",
        lambda subjects, title: {"index.html": title.encode(), "figures/a.svg": b"a"},
    )


def test_a_report_is_replaced_as_a_whole(quick, tmp_path):
    folder = tmp_path / "deep" / "report"
    write_report(folder, [], title="one")
    (folder / "figures" / "a.svg").write_bytes(b"changed")
    assert write_report(folder, [], title="two") == folder.resolve() / "index.html"
    assert (folder / "index.html").read_text() == "two"
    assert (folder / "figures" / "a.svg").read_bytes() == b"a"
    assert [path.name for path in folder.parent.iterdir()] == ["report"]


def test_an_empty_folder_is_taken(quick, tmp_path):
    write_report(tmp_path, [])
    assert json.loads((tmp_path / "report.json").read_text())["files"] == ["figures/a.svg", "index.html"]


@pytest.mark.parametrize("where", ["mine.txt", "figures/mine.svg"])
def test_a_report_with_foreign_files_is_left_alone(quick, tmp_path, where):
    folder = tmp_path / "report"
    write_report(folder, [], title="one")
    (folder / where).write_text("mine")
    with pytest.raises(DataError, match="mine"):
        write_report(folder, [], title="two")
    assert (folder / "index.html").read_text() == "one"
    assert (folder / where).read_text() == "mine"


def test_a_folder_that_is_no_report_is_left_alone(quick, tmp_path):
    (tmp_path / "index.html").write_text("somebody's page")
    with pytest.raises(DataError, match="holds files but no report"):
        write_report(tmp_path, [])
    (tmp_path / "report.json").write_text('{"kind": "other", "files": ["index.html"]}')
    with pytest.raises(DataError, match="holds files but no report"):
        write_report(tmp_path, [])
    file = tmp_path / "file"
    file.write_text("")
    with pytest.raises(DataError, match="not a folder"):
        write_report(file, [])


def test_a_failure_leaves_the_older_report(quick, tmp_path, monkeypatch):
    folder = tmp_path / "report"
    write_report(folder, [], title="one")
    before = contents(folder)
    write = Path.write_bytes

    def full(path, data):
        if path.name == "a.svg":
            raise OSError("No space left on device")
        return write(path, data)

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match="No space"):
        write_report(folder, [], title="two")
    assert contents(folder) == before
    assert [path.name for path in tmp_path.iterdir()] == ["report"]


def test_a_damaged_picture_is_named(few_subjects, tmp_path):
    from tissuebench.results.report.tissue import Album, tissue

    bad = tmp_path / "bad.png"
    bad.write_bytes(b"no picture")
    subject = few_subjects[0]
    overlays = {key: [replace(tile, prediction=bad) for tile in tiles] for key, tiles in subject.overlays.items()}
    with pytest.raises(DataError, match=r"bad\.png: not a picture"):
        tissue(lined_up(replace(subject, overlays=overlays)), Album())


def test_no_subject_and_nothing_finished_still_make_a_page(tmp_path):
    html = write_report(tmp_path / "a", []).read_text()
    assert "Nothing has finished yet" in html
