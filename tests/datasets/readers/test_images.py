"""Choice of the image that is the slide, in files that hold several."""

from __future__ import annotations

import numpy as np
import pytest
import tifffile
import zarr
from PIL import Image

from tests.datasets.readers.test_ome_zarr import write as write_zarr
from tissuebench.datasets.readers import open_slide
from tissuebench.datasets.readers.images import FileImage, choose_image
from tissuebench.datasets.readers.ome_zarr import OmeZarrReader
from tissuebench.datasets.readers.tiff import TiffReader
from tissuebench.errors import DataError

MACRO, MAIN = (96, 260), (600, 520)


@pytest.fixture(scope="module")
def pictures(drawn):
    return {"macro": drawn.noise(*MACRO), "main": drawn.noise(*MAIN), "scene": drawn.noise(400, 610)}


def write_ome(path, images, pictures, mpps=(8.0, 0.5, 0.5), subifds=0):
    with tifffile.TiffWriter(path, ome=True) as tiff:
        for (name, key), mpp in zip(images, mpps, strict=False):
            metadata = {"axes": "YXS", "Name": name, "PhysicalSizeX": mpp, "PhysicalSizeY": mpp}
            levels = subifds if key == "main" else 0
            options = {"photometric": "rgb", "tile": (64, 64)}
            tiff.write(pictures[key], metadata=metadata, subifds=levels, **options)
            for level in range(levels):
                tiff.write(np.ascontiguousarray(pictures[key][:: 2 << level, :: 2 << level]), subfiletype=1, **options)
    return path


def is_read(reader, pixels):
    size = reader.levels[0]
    return np.array_equal(reader.read(0, 0, 0, size.height, size.width), pixels)


@pytest.mark.parametrize("names", [("macro image", "40x"), ("", ""), ("Image:0", "Image:1")])
@pytest.mark.parametrize("subifds", [0, 2])
def test_an_ome_tiff_that_begins_with_its_macro(tmp_path, pictures, names, subifds):
    images = list(zip(names, ("macro", "main"), strict=True))
    reader = TiffReader(write_ome(tmp_path / "slide.ome.tif", images, pictures, subifds=subifds))
    assert is_read(reader, pictures["main"])
    assert len(reader.levels) == 1 + subifds
    assert reader.mpp == pytest.approx(0.5)  # its own, not that of image 0
    (note,) = reader.notes
    assert note.startswith("series 1 of 2 images (")
    assert "520 x 600 px) was read; the others: series 0 (" in note


def test_the_series_of_a_tiff_by_number_and_by_name(tmp_path, pictures):
    path = write_ome(tmp_path / "slide.ome.tif", [("macro", "macro"), ("40x", "main")], pictures)
    for series, key, mpp in (("0", "macro", 8.0), ("macro", "macro", 8.0), ("1", "main", 0.5), ("40x", "main", 0.5)):
        with open_slide(path, None, series=series) as slide:
            assert np.array_equal(slide.region(0, 0, slide.height, slide.width), pictures[key])
            assert (slide.mpp, slide.notes) == (pytest.approx(mpp), ())
    for series in ("2", "-1", "20x"):
        with pytest.raises(
            DataError, match=rf"no image has .*'{series}' .*series 0 \('macro', 260 x 96 px\), series 1"
        ):
            open_slide(path, None, series=series)


def test_two_scenes_of_tissue_are_a_choice_of_the_user(tmp_path, pictures):
    images = [("macro", "macro"), ("scene 1", "main"), ("scene 2", "scene")]
    path = write_ome(tmp_path / "slide.ome.tif", images, pictures)
    with pytest.raises(DataError, match=r"several may be the slide: .*'scene 1', 520 x 600 px.*column 'series'"):
        TiffReader(path)
    assert is_read(TiffReader(path, "scene 2"), pictures["scene"])
    other = write_ome(tmp_path / "other.ome.tif", images[1:], pictures, mpps=(0.5, 4.0))
    reader = TiffReader(other)  # at another magnification: an overview
    assert is_read(reader, pictures["main"])
    assert "the others: series 1 ('scene 2', 610 x 400 px)" in reader.notes[0]


@pytest.mark.parametrize("first", ["macro", "thumbnail", "grey"])
def test_a_plain_tiff_whose_first_page_is_not_the_slide(tmp_path, pictures, first):
    path, main = tmp_path / "slide.tif", pictures["main"]
    pages = {"macro": pictures["macro"], "thumbnail": main[::8, ::8], "grey": main[..., 0]}
    with tifffile.TiffWriter(path) as tiff:
        options = {"metadata": None, "resolutionunit": "CENTIMETER"}
        kind = "minisblack" if first == "grey" else "rgb"
        tiff.write(np.ascontiguousarray(pages[first]), photometric=kind, resolution=(1e4 / 8, 1e4 / 8), **options)
        for step in (1, 2, 4):
            level = np.ascontiguousarray(main[::step, ::step])
            tiff.write(level, photometric="rgb", tile=(64, 64), resolution=(2e4 / step, 2e4 / step), **options)
    reader = TiffReader(path)
    assert is_read(reader, main)
    assert [level.downsample for level in reader.levels] == [1.0, 2.0, 4.0]
    assert reader.mpp == pytest.approx(0.5)
    assert reader.notes[0].startswith("series 1 of 2 images (520 x 600 px) was read; the others: series 0 (")


def test_pages_of_the_same_size_are_a_choice_of_the_user(tmp_path, drawn):
    path, pages = tmp_path / "slide.tif", [drawn.noise(90, 80), drawn.smooth(90, 80)]
    with tifffile.TiffWriter(path) as tiff:
        for page in pages:
            tiff.write(page, photometric="rgb", tile=(32, 32), metadata=None)
    with pytest.raises(
        DataError, match=r"2 images, of which several may be the slide: series 0 \(80 x 90 px\), series 1"
    ):
        TiffReader(path)
    for number, page in enumerate(pages):
        assert is_read(TiffReader(path, str(number)), page)


def test_a_large_photograph_beside_the_slide_is_not_taken_for_a_scene(tmp_path, drawn):
    path, main = tmp_path / "slide.tif", drawn.noise(200, 200)
    with tifffile.TiffWriter(path) as tiff:
        tiff.write(drawn.noise(80, 190), photometric="rgb", metadata=None)
        tiff.write(main, photometric="rgb", tile=(64, 64), metadata=None)
    assert is_read(TiffReader(path), main)


def test_what_every_svs_has_beside_the_slide_is_not_noted(tmp_path, pictures):
    path = tmp_path / "slide.svs"
    with tifffile.TiffWriter(path) as tiff:
        options = {"photometric": "rgb", "metadata": None}
        text = "Aperio Image Library v12\n520x600|MPP = 0.5"
        tiff.write(pictures["main"], tile=(64, 64), description=text, **options)
        tiff.write(np.ascontiguousarray(pictures["main"][::4, ::4]), description="Aperio thumbnail", **options)
        tiff.write(pictures["macro"][:50, :60], description="Aperio label 60x50", subfiletype=1, **options)
        tiff.write(pictures["macro"], description="Aperio macro 260x96", subfiletype=9, **options)
    reader = TiffReader(path)
    assert is_read(reader, pictures["main"])
    assert (reader.mpp, reader.notes) == (0.5, ())
    macro = TiffReader(path, "Macro")
    assert is_read(macro, pictures["macro"])
    assert macro.mpp is None


def test_a_damaged_slide_is_not_replaced_by_its_thumbnail(tmp_path, pictures):
    path = write_ome(tmp_path / "slide.ome.tif", [("small", "macro"), ("40x", "main")], pictures)
    path.write_bytes(path.read_bytes()[:-2000])
    with pytest.raises(DataError):
        TiffReader(path)


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_the_series_of_bioformats2raw(tmp_path, pictures, drawn, version):
    path = tmp_path / "slide.zarr"
    write_zarr(path, [pictures["macro"]], version=version, mpp=8.0, group="0")
    levels = [pictures["main"], drawn.halve(pictures["main"])]
    write_zarr(path / "1", levels, version=version)
    reader = OmeZarrReader(path)
    assert is_read(reader, pictures["main"])
    assert (reader.mpp, len(reader.levels)) == (0.5, 2)
    assert reader.notes == ("series 1 of 2 images (520 x 600 px) was read; the others: series 0 (260 x 96 px)",)
    assert is_read(OmeZarrReader(path, "0"), pictures["macro"])
    with pytest.raises(DataError, match=r"no image has the number or name 'x'"):
        OmeZarrReader(path, "x")
    (path / "OME").mkdir()
    xml = '<OME xmlns="http://ome"><Image Name="macro"/><Image Name="40x"/></OME>'
    (path / "OME" / "METADATA.ome.xml").write_text(xml)
    named = OmeZarrReader(path)
    assert named.notes[0].startswith("series 1 of 2 images ('40x', 520 x 600 px)")
    assert is_read(OmeZarrReader(path, "macro"), pictures["macro"])


def test_several_multiscales_of_one_group(tmp_path, pictures):
    path = write_zarr(tmp_path / "slide.zarr", [pictures["macro"]], mpp=8.0)
    write_zarr(path / "big", [pictures["main"]])
    root, big = zarr.open_group(path), zarr.open_group(path / "big")
    first, second = (dict(group.attrs["ome"]["multiscales"][0]) for group in (root, big))
    second["datasets"] = [{**one, "path": f"big/{one['path']}"} for one in second["datasets"]]
    first["name"], second["name"] = "overview", "slide"
    root.attrs["ome"] = {"version": "0.5", "multiscales": [first, second]}
    assert is_read(OmeZarrReader(path), pictures["main"])
    assert is_read(OmeZarrReader(path, "overview"), pictures["macro"])


def test_a_folder_path_of_a_series_stays_in_the_folder(tmp_path, pictures):
    path = tmp_path / "slide.zarr"
    write_zarr(path, [pictures["macro"]], group="0")
    zarr.open_group(path).create_group("OME").attrs["ome"] = {"version": "0.5", "series": ["../../other"]}
    with pytest.raises(DataError, match=r"'\.\./\.\./other' of a series leads out of the folder"):
        OmeZarrReader(path)


def test_formats_of_one_image_have_no_series(tmp_path, drawn):
    path = tmp_path / "slide.png"
    Image.fromarray(drawn.smooth(40, 50)).save(path)
    with open_slide(path, None, series="0") as slide:
        assert slide.level0_size == (40, 50)
    with pytest.raises(DataError, match=r"slide\.png: holds no choice of images; .*'series' empty, not '1'"):
        open_slide(path, None, series="1")


def test_the_choice_by_hand(tmp_path):
    main, half = FileImage("", 4000, 3000, 3), FileImage("", 2000, 1500, 1)
    assert choose_image(tmp_path, [main]) == (0, ())
    assert choose_image(tmp_path, [main, FileImage("", 2000, 1500, reduced=True)]) == (0, ())
    assert choose_image(tmp_path, [FileImage("Label", 9000, 9000), main])[0] == 1
    assert choose_image(tmp_path, [FileImage("", 9000, 9000, rgb=False), main])[0] == 1
    assert choose_image(tmp_path, [FileImage("macro", 900, 900)])[0] == 0
    assert choose_image(tmp_path, [FileImage("macrophages 40x", 900, 900), FileImage("a", 90, 90)])[0] == 0
    number, (note,) = choose_image(tmp_path, [half, main])
    assert (number, note.count("series")) == (1, 2)
    twins = [FileImage("a", 400, 300), FileImage("a", 400, 300)]
    for images, series in ((twins, ""), (twins, "a")):
        with pytest.raises(DataError, match="series"):
            choose_image(tmp_path, images, series)
    assert choose_image(tmp_path, twins, "1") == (1, ())
