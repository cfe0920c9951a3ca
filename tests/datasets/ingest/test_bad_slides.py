"""Bad slides: each is left out with its own reason, and the others are ingested."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tifffile
import yaml
from PIL import Image

from tissuebench.datasets.catalog import find_recipe
from tissuebench.datasets.ingest.ingest import IngestOptions, ensure_store
from tissuebench.datasets.ingest.outcome import read_outcome
from tissuebench.datasets.store.verify import verify
from tissuebench.errors import DataError

SIDE = 256
COLUMNS = ("slide_id", "patient_id", "image", "annotation")


def polygon(ring, name="tumour"):
    return {
        "type": "Feature",
        "geometry": {"type": "Polygon", "coordinates": [ring]},
        "properties": {"classification": {"name": name}},
    }


def write_slide(path: Path, seed: int = 99, pixels=None, mpp: float | None = 0.5) -> None:
    if pixels is None:
        pixels = np.random.default_rng(seed).integers(90, 200, (SIDE, SIDE, 3), dtype=np.uint8)
    resolution = {} if mpp is None else {"resolution": (1e4 / mpp, 1e4 / mpp), "resolutionunit": "CENTIMETER"}
    tifffile.imwrite(path, pixels, tile=(64, 64), photometric="rgb", compression="deflate", **resolution)


@pytest.fixture
def cohort(tmp_path):
    """Three good slides of three patients, with polygons, at 0.5 um; the store is at 1.0."""
    root = tmp_path / "slides"
    root.mkdir()
    (root / "dataset.yaml").write_text(
        yaml.safe_dump(
            {"name": "mine", "mpp": 1.0, "tile_px": 32, "classes": {"stroma": [1, 2, 3], "tumour": [4, 5, 6]}}
        )
    )
    rows = []
    for number in range(3):
        write_slide(root / f"good{number}.tif", number)
        (root / f"good{number}.geojson").write_text(json.dumps(polygon([[0, 0], [90, 0], [90, 90], [0, 0]])))
        rows.append([f"good{number}", f"case{number}", f"good{number}.tif", f"good{number}.geojson"])
    write_rows(root, rows)
    return root


def write_rows(root, rows):
    with (root / "manifest.csv").open("w", newline="") as handle:
        writer = csv.writer(handle)
        writer.writerow(COLUMNS)
        writer.writerows(rows)


def add_row(root, *cells):
    with (root / "manifest.csv").open("a", newline="") as handle:
        csv.writer(handle).writerow(cells)


def truncated(root):
    write_slide(root / "bad.tif")
    content = (root / "bad.tif").read_bytes()
    (root / "bad.tif").write_bytes(content[: len(content) // 2])
    add_row(root, "bad", "caseX", "bad.tif", "")


def zero_bytes(root):
    (root / "bad.tif").touch()
    add_row(root, "bad", "caseX", "bad.tif", "")


def text_as_svs(root):
    (root / "bad.svs").write_text("dear colleague, the slide is on the other drive\n" * 20)
    add_row(root, "bad", "caseX", "bad.svs", "")


def no_mpp(root):
    write_slide(root / "bad.tif", mpp=None)
    add_row(root, "bad", "caseX", "bad.tif", "")


def no_tissue(root):
    write_slide(root / "bad.tif", pixels=np.full((SIDE, SIDE, 3), 243, np.uint8))
    add_row(root, "bad", "caseX", "bad.tif", "")


def fluorescence(root):
    pixels = np.zeros((SIDE, SIDE, 3), np.uint8)
    pixels[60:90, 60:90, 0] = 220
    write_slide(root / "bad.tif", pixels=pixels)
    add_row(root, "bad", "caseX", "bad.tif", "")


def annotation_outside(root):
    write_slide(root / "bad.tif")
    (root / "bad.geojson").write_text(json.dumps(polygon([[900, 900], [990, 900], [990, 990], [900, 900]])))
    add_row(root, "bad", "caseX", "bad.tif", "bad.geojson")


def unknown_class(root):
    write_slide(root / "bad.tif")
    (root / "bad.geojson").write_text(json.dumps(polygon([[0, 0], [90, 0], [90, 90], [0, 0]], "tumor")))
    add_row(root, "bad", "caseX", "bad.tif", "bad.geojson")


def duplicate_id(root):
    for name in ("bad1", "bad2"):
        write_slide(root / f"{name}.tif")
        add_row(root, "bad", "caseX", f"{name}.tif", "")


def slash_in_id(root):
    write_slide(root / "bad.tif")
    add_row(root, "a/bad", "caseX", "bad.tif", "")


def dots_in_id(root):
    write_slide(root / "bad.tif")
    add_row(root, "..", "caseX", "bad.tif", "")


def row_without_file(root):
    add_row(root, "bad", "caseX", "bad.tif", "")


def row_without_annotation_file(root):
    write_slide(root / "bad.tif")
    add_row(root, "bad", "caseX", "bad.tif", "bad.geojson")


def file_without_row(root):
    write_slide(root / "bad.tif")


FAULTS = {
    truncated: "bad.tif: is cut off",
    zero_bytes: "bad.tif: is empty",
    text_as_svs: "bad.svs: cannot be read as a TIFF slide",
    no_mpp: "bad.tif: the file does not say its resolution; fill the manifest's column 'mpp'",
    no_tissue: "slide 'bad': no tissue found",
    fluorescence: "bad.tif: looks like fluorescence",
    annotation_outside: "bad.geojson: .*lies outside the slide",
    unknown_class: "bad.geojson: .*unknown class 'tumor': did you mean 'tumour'. known: stroma, tumour",
    duplicate_id: r"slide id 'bad' appears 2 times \(.*bad1.tif, .*bad2.tif\)",
    slash_in_id: "slide_id 'a/bad' cannot be a file name",
    dots_in_id: r"slide_id '\.\.' cannot be a file name",
    row_without_file: "bad.tif: no such file; check the manifest's column 'image'",
    row_without_annotation_file: "bad.geojson: no such file; check the manifest's column 'annotation'",
    file_without_row: "bad.tif: no row of .*manifest.csv names this file",
}


def ingest(root, home, **options):
    return ensure_store(find_recipe("folder", root), home, root, lambda *_: None, IngestOptions(**options))


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_a_bad_slide_is_left_out_and_the_others_go_in(cohort, tmp_path, fault):
    sound = ingest(cohort, tmp_path / "sound")
    assert not sound.quarantine
    fault(cohort)
    made = ingest(cohort, tmp_path / "home")
    assert sorted(made.store.slides) == ["good0", "good1", "good2"]
    assert made.store.content_hash == sound.store.content_hash
    assert made.split == sound.split
    assert {bad.slide_id for bad in made.quarantine} == {{slash_in_id: "a/bad", dots_in_id: ".."}.get(fault, "bad")}
    for bad in made.quarantine:
        assert "\n" not in bad.reason
    assert re.search(FAULTS[fault], made.quarantine[0].reason), made.quarantine[0].reason
    assert read_outcome(tmp_path / "home" / "data" / "mine") == (made.quarantine, ())
    verify(made.store)
    inside = [path.name for path in (tmp_path / "home").rglob("*")]
    assert not [name for name in inside if ".partial" in name or name.startswith("bad")]
    assert ingest(cohort, tmp_path / "home").quarantine == made.quarantine  # and again, from the sealed store


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_strict_stops_at_the_bad_slide(cohort, tmp_path, fault):
    fault(cohort)
    with pytest.raises(DataError, match=FAULTS[fault]):
        ingest(cohort, tmp_path / "home", strict=True)
    assert not (tmp_path / "home" / "data" / "mine" / "store.zarr").exists()


def test_all_of_them_at_once_with_two_processes(cohort, tmp_path):
    expected = ingest(cohort, tmp_path / "sound").store.content_hash
    for number, fault in enumerate(FAULTS):
        if fault in (slash_in_id, dots_in_id, duplicate_id, file_without_row):
            continue
        before = {path.name for path in cohort.iterdir()}
        fault(cohort)
        text = (cohort / "manifest.csv").read_text().splitlines()
        text[-1] = text[-1].replace("bad", f"bad{number + 10}")
        (cohort / "manifest.csv").write_text("\n".join(text) + "\n")
        for path in list(cohort.iterdir()):
            if path.name not in before:
                path.rename(path.with_name(path.name.replace("bad", f"bad{number + 10}")))
    duplicate_id(cohort)
    made = ingest(cohort, tmp_path / "home", workers=2)
    assert sorted(made.store.slides) == ["good0", "good1", "good2"]
    assert made.store.content_hash == expected
    assert len({bad.reason for bad in made.quarantine}) == len(made.quarantine) - 1  # the two of one id share theirs


def test_a_polygon_that_crosses_itself_is_repaired_and_said_so(cohort, tmp_path):
    bow_tie = polygon([[0, 0], [200, 200], [200, 0], [0, 200], [0, 0]])
    (cohort / "good1.geojson").write_text(json.dumps(bow_tie))
    made = ingest(cohort, tmp_path / "home")
    assert not made.quarantine
    document = json.loads((made.store.path / "records" / "good1.json").read_text())
    assert [note for note in document["content"]["notes"] if "crosses itself" in note and "repaired" in note]
    mask = made.store.withheld.mask("good1", 0, 0, 128, 128)
    wings, between = [(50, 10), (50, 90)], [(10, 50), (90, 50)]
    assert [mask[place] for place in wings] == [1, 1]
    assert [mask[place] for place in between] == [255, 255]


def test_no_slide_that_can_be_used(cohort, tmp_path):
    for number in range(3):
        (cohort / f"good{number}.tif").write_bytes(b"")
    with pytest.raises(DataError, match=r"none of 3 slides can be used; the first: .*good0\.tif: is empty"):
        ingest(cohort, tmp_path / "home")
    assert not list((tmp_path / "home" / "data" / "mine").iterdir())


def test_a_repaired_slide_comes_in_by_update(cohort, tmp_path):
    no_mpp(cohort)
    first = ingest(cohort, tmp_path / "home")
    assert [bad.slide_id for bad in first.quarantine] == ["bad"]
    write_slide(cohort / "bad.tif", mpp=0.5)
    with pytest.raises(DataError, match="--update"):
        ingest(cohort, tmp_path / "home")
    second = ingest(cohort, tmp_path / "home", update=True)
    assert not second.quarantine
    assert sorted(second.store.slides) == ["bad", "good0", "good1", "good2"]
    assert not (tmp_path / "home" / "data" / "mine" / "quarantine.json").exists()


def test_the_command_lists_them_and_ends_with_3(cohort, tmp_path):
    no_mpp(cohort)
    command = [sys.executable, "-P", "-m", "tissuebench", "data", "ingest", "folder", "--data-root", cohort]
    ran = subprocess.run([*command, "--home", tmp_path / "home"], capture_output=True, text=True, check=False)
    assert ran.returncode == 3
    assert "3 slides, 1 left out" in ran.stdout
    assert "left out: bad: " in ran.stderr.replace("\n", " ")
    strict = subprocess.run([*command, "--home", tmp_path / "other", "--strict"], capture_output=True, text=True)
    assert strict.returncode == 2
    assert strict.stderr.count("tissuebench: ") == 1


DISK_FULL = """
set -e
mount -t tmpfs -o size={size} tmpfs {home}
code=0
{command} 2> {log} || code=$?
echo $code > {log}.code
ls -R {home} > {log}.ls
mount -o remount,size=64m {home}
{command} > {log}.again
"""


def test_a_full_disk_loses_nothing(cohort, tmp_path):
    """On a disk of its own that is too small at first: what fitted stays, and after room is made the rest follows."""
    if shutil.which("unshare") is None or subprocess.run(["unshare", "-rm", "true"], check=False).returncode:
        pytest.skip("this machine does not let a process mount a small disk of its own (unshare -rm)")
    big = np.random.default_rng(1).integers(60, 220, (2048, 2048, 3), dtype=np.uint8)
    write_slide(cohort / "large.tif", pixels=big)
    add_row(cohort, "large", "caseX", "large.tif", "")
    expected = ingest(cohort, tmp_path / "sound").store.content_hash
    home, log = tmp_path / "home", tmp_path / "log"
    home.mkdir()
    command = f"{sys.executable} -P -m tissuebench data ingest folder --data-root {cohort} --home {home}"
    script = DISK_FULL.format(size="2m", home=home, command=command, log=log)
    ran = subprocess.run(["unshare", "-rm", "sh", "-c", script], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr + log.read_text()
    assert (tmp_path / "log.code").read_text().strip() == "2"
    complaint = log.read_text().splitlines()[-1]
    assert "the disk is full; 1 of 4 slides are not in yet" in complaint
    assert "run the same command again" in complaint
    listing = (tmp_path / "log.ls").read_text()
    assert "good0" in listing
    assert "large" not in listing
    assert f"4 slides, 0 left out, 0 notes, content {expected[:16]}" in (tmp_path / "log.again").read_text()


def test_a_process_that_is_killed_takes_only_its_slide_with_it(cohort, tmp_path, monkeypatch):
    """As the kernel does when memory runs out."""
    site = tmp_path / "site"
    site.mkdir()
    (site / "sitecustomize.py").write_text(
        "import os, signal, tissuebench.datasets.readers.slide as s\n"
        "first = s.open_slide\n"
        "def open_slide(path, *rest):\n"
        "    if path.name == 'good1.tif': os.kill(os.getpid(), signal.SIGKILL)\n"
        "    return first(path, *rest)\n"
        "import tissuebench.datasets.readers; tissuebench.datasets.readers.open_slide = open_slide\n"
    )
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(site), os.environ.get("PYTHONPATH", "")]))
    made = ingest(cohort, tmp_path / "home", workers=2)
    assert [bad.slide_id for bad in made.quarantine] == ["good1"]
    assert "its process was killed (-9); out of memory?" in made.quarantine[0].reason
    assert sorted(made.store.slides) == ["good0", "good2"]


def test_a_defect_of_ours_is_a_reason_too(cohort, tmp_path, monkeypatch):
    from tissuebench.datasets.ingest import convert

    def broken(slide, name):
        if "good2" in name:
            raise ZeroDivisionError("division by\nzero")

    monkeypatch.setattr(convert, "require_brightfield", broken)
    made = ingest(cohort, tmp_path / "home")
    assert [(bad.slide_id, "ZeroDivisionError: division by zero" in bad.reason) for bad in made.quarantine] == [
        ("good2", True)
    ]


def test_a_hostile_name_stays_inside(cohort, tmp_path):
    write_slide(cohort / "evil.tif")
    add_row(cohort, "../../escaped", "caseX", "evil.tif", "")
    add_row(cohort, "ok", "../case", "evil.tif", "")
    made = ingest(cohort, tmp_path / "home")
    assert sorted(made.store.slides) == ["good0", "good1", "good2"]
    assert not list(tmp_path.rglob("escaped*"))
    Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(tmp_path / "x.png")  # the folder above was left alone
    assert {path.name for path in tmp_path.iterdir()} == {"slides", "home", "x.png"}
