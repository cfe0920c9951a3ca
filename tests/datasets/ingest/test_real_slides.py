"""Real slides through the whole way in, and the store through a reader that others wrote."""

from __future__ import annotations

import csv
import json

import dask.array
import numpy as np
import openslide
import pytest
import yaml
from ome_zarr.io import parse_url
from ome_zarr.reader import Reader

from tissuebench.datasets.catalog import find_recipe
from tissuebench.datasets.ingest.ingest import Ingested, ensure_store
from tissuebench.datasets.store.verify import verify

CMU, TCGA, NDPI = "CMU-1-Small-Region.svs", "TCGA-CR-7395-01A-01-TS1.svs", "test3-TRITC-560.ndpi"
ROWS = {
    "cmu-qupath": (CMU, "CMU-1-Small-Region.geojson", ""),
    "cmu-asap": (CMU, "CMU-1-Small-Region.asap.xml", ""),
    "cmu-aperio": (CMU, "CMU-1-Small-Region.aperio.xml", ""),
    "cmu-openslide": (CMU, "", "openslide"),
    "cmu-ome": ("cmu_small_region.ome.tif", "", ""),
    "cmu-pyramid": ("cmu_small_region_pyramid.tif", "", ""),
    "tcga": (TCGA, "TCGA-CR-7395-01A-01-TS1.geojson", ""),
    "tcga-told": (TCGA, "TCGA-CR-7395-01A-01-TS1.geojson", ""),
    "ndpi": (NDPI, "", ""),
}


@pytest.fixture(scope="module")
def made(shared_data, tmp_path_factory) -> Ingested:
    """The five files, the SVS several times over, at the resolution of the 20x slides."""
    wsi, root = shared_data / "wsi_small", tmp_path_factory.mktemp("slides")
    found = {path.name: path for path in (wsi / "annotations").iterdir()}
    with (root / "manifest.csv").open("w", newline="") as handle:
        writer = csv.writer(handle)
        writer.writerow(["slide_id", "patient_id", "image", "annotation", "mpp", "reader", "split"])
        for slide_id, (image, annotation, reader) in ROWS.items():
            (root / slide_id).mkdir()  # a folder each, as the same file is there several times
            (root / slide_id / image).symlink_to(wsi / image)
            named = found[annotation] if annotation else ""
            mpp = "0.5" if slide_id == "tcga-told" else ""
            # The same slide several times: within one part, copies are noted.
            writer.writerow([slide_id, slide_id, f"{slide_id}/{image}", named, mpp, reader, "train"])
    classes = {"Tissue": [230, 150, 190], "Hematoxylin-rich": [90, 60, 160]}
    described = {"name": "real", "mpp": 0.499, "tile_px": 256, "classes": classes}
    (root / "dataset.yaml").write_text(yaml.safe_dump(described, sort_keys=False))
    return ensure_store(find_recipe("folder", root), tmp_path_factory.mktemp("home"), root, lambda *_: None)


def test_all_go_in_or_are_refused_for_a_stated_reason(made):
    assert set(made.store.slides) == set(ROWS) - {"tcga", "ndpi"}
    reasons = {bad.slide_id: bad.reason for bad in made.quarantine}
    assert set(reasons) == {"tcga", "ndpi"}
    assert "does not say its resolution; fill the manifest's column 'mpp'" in reasons["tcga"]
    assert "looks like fluorescence" in reasons["ndpi"]
    assert any("pixel by pixel the same" in note for note in made.notes)
    verify(made.store)


def record(made, slide_id):
    manifest = json.loads((made.store.path / "manifest.json").read_text())["content"]
    return next(entry for entry in manifest["slides"] if entry["slide_id"] == slide_id)


def test_three_formats_give_one_mask(made):
    masks = {record(made, f"cmu-{name}")["label_sha256"] for name in ("qupath", "asap", "aperio")}
    assert len(masks) == 1
    drawn = record(made, "cmu-qupath")["class_pixels"]
    assert min(drawn) > 10_000


def test_two_readers_give_one_image(made):
    """The SVS through tifffile and through OpenSlide; mpp .499 of 0.499 is level 0 as it is."""
    assert record(made, "cmu-openslide")["image_sha256"] == record(made, "cmu-qupath")["image_sha256"]


def test_level_0_is_what_openslide_reads(made, shared_data):
    slide = openslide.OpenSlide(shared_data / "wsi_small" / CMU)
    info = made.store.slides["cmu-qupath"]
    assert (info.width, info.height) == slide.dimensions
    for x, y in ((0, 0), (301, 777), (1500, 2500)):
        theirs = np.asarray(slide.read_region((x, y), 0, (400, 300)).convert("RGB")).transpose(2, 0, 1)
        assert np.array_equal(made.store.image("cmu-qupath", y, x, 300, 400), theirs)  # JPEG tolerance: none needed


def test_the_derived_files_show_the_same_tissue(made):
    """They were compressed once more: the same picture within JPEG noise."""
    original = made.store.image("cmu-qupath", 0, 0, 2048, 2048).astype(np.int16)
    for name in ("cmu-ome", "cmu-pyramid"):
        difference = np.abs(made.store.image(name, 0, 0, 2048, 2048) - original)
        assert difference.mean() < 3
        fractions = made.store.slides[name].tissue_fraction, made.store.slides["cmu-qupath"].tissue_fraction
        assert fractions[0] == pytest.approx(fractions[1], abs=0.01)


def test_provenance_and_thumbnails_are_kept(made):
    record = json.loads((made.store.path / "records" / "cmu-qupath.json").read_text())["content"]
    assert record["metadata"]["file"] == CMU
    assert record["metadata"]["level0_px"] == "2220 x 2967"
    assert {path.stem for path in (made.store.path / "thumbnails").iterdir()} == set(made.store.slides)


def test_an_independent_reader_opens_pyramid_and_labels(made):
    """ome-zarr-py: nodes of image and labels, all levels, scales, colours, and the same pixels."""
    folder = made.store.path / "slides" / "cmu-qupath"
    location = parse_url(folder, mode="r")
    assert location is not None
    image, *labels = list(Reader(location)())
    assert [level.shape for level in image.data] == [(3, 2967, 2220), (3, 1483, 1110), (3, 741, 555), (3, 370, 277)]
    assert isinstance(image.data[0], dask.array.Array)
    info = made.store.slides["cmu-qupath"]
    whole = made.store.image("cmu-qupath", 0, 0, info.height, info.width)
    assert np.array_equal(image.data[0].compute(), whole)
    assert [axis["name"] for axis in image.metadata["axes"]] == ["c", "y", "x"]
    scales = [transforms[0]["scale"] for transforms in image.metadata["coordinateTransformations"]]
    assert scales[0] == [1.0, 0.499, 0.499]
    assert scales[1] == [1.0, 0.998, 0.998]
    named = {node.zarr.path.rstrip("/").rsplit("/", 1)[-1]: node for node in labels}
    assert {"annotation", "tissue"} <= set(named)
    annotation = named["annotation"]
    assert len(annotation.data) == len(image.data)
    mask = made.store.withheld.mask("cmu-qupath", 0, 0, info.height, info.width)
    assert np.array_equal(annotation.data[0].compute(), mask)
    assert np.array_equal(named["tissue"].data[0].compute(), made.store.tissue("cmu-qupath"))
