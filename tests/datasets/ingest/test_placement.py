"""Labels that do not lie on the tissue are refused, with the shift or the frame that would put them there."""

from __future__ import annotations

import numpy as np
import pytest

from tests.datasets.ingest.folders import (
    describe,
    ingest,
    square,
    tissue_on_glass,
    write_geojson,
    write_manifest,
    write_tiff,
)
from tissuebench.datasets.ingest.placement import LabelSample
from tissuebench.datasets.readers import Bounds, Slide
from tissuebench.datasets.store.slide_writer import written_slides
from tissuebench.errors import DataError

NAMES = ("stroma", "glass")


@pytest.fixture
def folder(tmp_path):
    root = tmp_path / "slides"
    root.mkdir()
    for number in range(2):
        write_tiff(root / f"S{number}.tif", tissue_on_glass(number))
        write_geojson(root / f"S{number}.geojson", square("tumour", 80, 80, 200, 200))
    describe(root)
    write_manifest(root, *(row(number) for number in range(2)))
    return root


def row(number, **cells):
    base = {"slide_id": f"S{number}", "patient_id": f"P{number}", "image": f"S{number}.tif"}
    return {**base, "annotation": f"S{number}.geojson", **cells}


def sample_of(labels):
    sample = LabelSample(*labels.shape)
    for y in range(0, labels.shape[0], 128):
        for x in range(0, labels.shape[1], 128):
            sample.add(labels[y : y + 128, x : x + 128], y, x)
    return sample


def test_labels_beside_the_tissue_are_refused_and_their_shift_is_named(folder, tmp_path):
    write_geojson(folder / "S1.geojson", square("tumour", 330, 320, 460, 450))  # tissue is at 64 .. 256
    made = ingest(folder, tmp_path)
    ((slide_id, reason),) = [(bad.slide_id, bad.reason) for bad in made.quarantine]
    assert slide_id == "S1"
    assert "only 0% of its labels lie on tissue" in reason
    shift = [int(word.strip(",")) for word in reason.split() if word[0] in "+-" and word.strip(",")[1:].isdigit()]
    assert shift == pytest.approx([-204, -194], abs=32)  # the least that puts them on tissue
    assert "write 'slide' in the manifest's column 'frame'" in reason


def test_a_stated_frame_turns_the_refusal_into_a_note(folder, tmp_path):
    write_geojson(folder / "S1.geojson", square("tumour", 330, 320, 460, 450))
    write_manifest(folder, row(0), row(1, frame="slide"))
    made = ingest(folder, tmp_path)
    assert not made.quarantine
    (note,) = written_slides(made.store.path)["S1"].notes
    assert note.startswith("only 0% of its labels lie on tissue")


def test_loose_tissue_drawn_around_is_noted(folder, tmp_path):
    loose = np.full((512, 512, 3), 243, np.uint8)
    for top in range(0, 512, 160):
        loose[top : top + 32] = tissue_on_glass(3)[100:132, 100:101]  # bands all over the slide: no shift helps
    write_tiff(folder / "S1.tif", loose)
    write_geojson(folder / "S1.geojson", square("tumour", 40, 10, 440, 480))
    made = ingest(folder, tmp_path)
    assert not made.quarantine
    (note,) = written_slides(made.store.path)["S1"].notes
    assert "of its labels lie on tissue" in note


def test_glass_may_be_annotated_beside_the_tissue(folder, tmp_path):
    describe(folder, classes={"glass": [255, 255, 255], "tumour": [1, 2, 3]})
    write_geojson(folder / "S1.geojson", square("glass", 330, 320, 460, 450))
    assert not ingest(folder, tmp_path).quarantine


def test_one_class_on_tissue_is_enough_whatever_else_is_drawn_on_glass():
    labels = np.full((512, 512), 255, np.uint8)
    labels[:128, :128], labels[256:, 256:] = 0, 2
    tissue = np.zeros((32, 32), np.uint8)
    tissue[:8, :8] = 1
    assert sample_of(labels).placed(tissue, ("stroma", "b", "c")).is_plausible


def test_nothing_is_said_of_specks_and_of_labels_of_the_whole_slide():
    tissue = np.zeros((32, 32), np.uint8)
    tissue[:4] = 1
    speck = np.full((512, 512), 255, np.uint8)
    speck[400:440, 400:440] = 0
    assert sample_of(speck).placed(tissue, NAMES) is None
    assert sample_of(np.zeros((512, 512), np.uint8)).placed(tissue, NAMES) is None


def test_the_shift_puts_the_labels_on_the_tissue():
    rng = np.random.default_rng(0)
    for _ in range(20):
        tissue, labels = np.zeros((40, 48), np.uint8), np.full((640, 768), 255, np.uint8)
        top, left = rng.integers(0, 8, 2)
        tissue[top : top + 12, left : left + 12] = 1
        y, x = rng.integers(22, 28), rng.integers(26, 36)
        labels[16 * y : 16 * (y + 10), 16 * x : 16 * (x + 10)] = 0
        sample = sample_of(labels)
        placed = sample.placed(tissue, NAMES)
        assert placed.on_tissue == 0
        assert sample.share_on_tissue(tissue, placed.shift) > 0.95


def test_on_a_cropped_slide_the_other_frame_is_named(folder, tmp_path, monkeypatch):
    before = Slide.__init__

    def cropped(self, *arguments):
        before(self, *arguments)
        self.bounds = Bounds(200, 256, 300, 256)

    monkeypatch.setattr(Slide, "__init__", cropped)
    with pytest.raises(DataError, match=r"but 100% if it is drawn on the whole slide \(frame 'slide'\)"):
        ingest(folder, tmp_path)
    describe(folder, frame="slide")
    assert not ingest(folder, tmp_path).quarantine
