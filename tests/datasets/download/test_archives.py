"""Unpacking archives: hostile and broken ones write nothing, inside their folder or outside."""

from __future__ import annotations

import io
import stat
import tarfile
import zipfile

import pytest
from hypothesis import HealthCheck, given
from hypothesis import strategies as st

from tests.datasets.download.toy_recipes import FAST, GOOD, NOISE, recipe_of, refused, require_whole, run, zip_of
from tests.properties import examples
from tissuebench.datasets.catalog.recipe import Download
from tissuebench.datasets.download.archives import unpack
from tissuebench.datasets.download.fetch import fetch
from tissuebench.errors import DataError


def tar_of(folder, *infos):
    path = folder / "data.zip"  # the content says what it is, not the name
    with tarfile.open(path, "w:gz") as archive:
        for name, how in infos:
            info = tarfile.TarInfo(name)
            for key, value in how.items():
                setattr(info, key, value)
            archive.addfile(info, io.BytesIO(b"x" * info.size))
    return path.read_bytes()


def special_zip(name, mode):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        info = zipfile.ZipInfo(name)
        info.create_system = 3
        info.external_attr = (mode | 0o777) << 16
        archive.writestr("a/first.txt", b"1")
        archive.writestr(info, b"../../outside")
    return buffer.getvalue()


HOSTILE = {
    "zip dots": (lambda _: zip_of({"a/first.txt": b"1", "../outside.txt": b"x"}), "leads out of the folder"),
    "zip dots inside": (lambda _: zip_of({"a/../../outside.txt": b"x"}), "leads out of the folder"),
    "zip absolute": (lambda _: zip_of({"/tmp/outside.txt": b"x"}), "leads out of the folder"),
    "zip drive": (lambda _: zip_of({"C:/outside.txt": b"x"}), "leads out of the folder"),
    "zip backslash": (lambda _: zip_of({"..\\outside.txt": b"x"}), "leads out of the folder"),
    "zip symlink": (lambda _: special_zip("a/link", stat.S_IFLNK), "is a link"),
    "zip fifo": (lambda _: special_zip("a/fifo", stat.S_IFIFO), "is neither a file nor a folder"),
    "tar dots": (lambda f: tar_of(f, ("a", {"size": 1}), ("../outside.txt", {"size": 1})), "leads out of the folder"),
    "tar absolute": (lambda f: tar_of(f, ("/tmp/outside.txt", {"size": 1})), "leads out of the folder"),
    "tar symlink": (lambda f: tar_of(f, ("a", {"type": tarfile.SYMTYPE, "linkname": "/etc"})), "is a link"),
    "tar hard link": (lambda f: tar_of(f, ("a", {"type": tarfile.LNKTYPE, "linkname": "../x"})), "is a link"),
    "tar device": (lambda f: tar_of(f, ("a", {"type": tarfile.CHRTYPE})), "is neither a file nor a folder"),
    "tar twice": (lambda f: tar_of(f, ("a/b", {"size": 1}), ("a//b", {"size": 1})), "appears twice"),
    "zip too large": (lambda _: zip_of({"a": b"0" * 1_000_001}), "more than 2000000 or 1000000"),
    "tar too large": (lambda f: tar_of(f, ("a", {"size": 600_000}), ("b", {"size": 600_000})), "or 1000000"),
    "no archive": (lambda _: b"nonsense" * 100, "cannot be unpacked"),
    "half an archive": (lambda _: GOOD[: len(GOOD) // 2], "cannot be unpacked"),
    "rotten content": (lambda _: GOOD.replace(NOISE[:50], NOISE[1:51]), "cannot be unpacked"),
    "half a tar": (lambda f: tar_of(f, ("a", {"size": 500_000}))[:300], "cannot be unpacked"),
}


@pytest.mark.parametrize("case", sorted(HOSTILE))
def test_hostile_and_broken_archives_write_nothing(tmp_path, case):
    make, message = HOSTILE[case]
    inside = tmp_path / "deep" / "raw"
    inside.mkdir(parents=True)
    (inside / "data.zip").write_bytes(make(inside))
    found = refused(recipe_of(Download("data.zip", unpacked_bytes=1_000_000)), inside)
    assert str(inside / "data.zip") in found
    assert message in found
    assert [path.name for path in inside.iterdir()] == ["data.zip"]
    assert [path.name for path in tmp_path.iterdir()] == ["deep"]


def test_a_folder_listed_twice_is_harmless(tmp_path):
    tar_of(
        tmp_path,
        ("./", {"type": tarfile.DIRTYPE}),
        ("a", {"type": tarfile.DIRTYPE}),
        ("a/b", {"size": 1}),
        ("a", {"type": tarfile.DIRTYPE}),
    )
    run(recipe_of(Download("data.zip")), tmp_path)
    assert (tmp_path / "data" / "a" / "b").read_bytes() == b"x"


def test_an_encrypted_zip_is_refused(tmp_path):
    body = bytearray(zip_of({"a.txt": b"secret"}))
    for signature, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        body[body.index(signature) + offset] |= 1
    (tmp_path / "data.zip").write_bytes(body)
    assert "'a.txt' is encrypted" in refused(recipe_of(Download("data.zip")), tmp_path)


def test_what_an_interrupted_unpacking_left_behind_does_not_come_through(tmp_path):
    (tmp_path / "data.zip").write_bytes(GOOD)
    (tmp_path / ".data.partial" / "a").mkdir(parents=True)
    (tmp_path / ".data.partial" / "a" / "stale.txt").write_text("old")

    def interrupt(*_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fetch(recipe_of(Download("data.zip")), tmp_path, interrupt, lambda _: None, FAST)
    assert not (tmp_path / ".data.partial").exists()
    run(recipe_of(Download("data.zip")), tmp_path)
    require_whole(tmp_path)


SEGMENTS = st.sampled_from(["a", "b", "..", ".", "", "C:", "a\\b", "x y", "ä"])


@given(
    names=st.lists(
        st.lists(SEGMENTS, min_size=1, max_size=4).map("/".join).filter(bool), min_size=1, max_size=4, unique=True
    )
)
@examples(60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_zip_writes_outside_its_folder(tmp_path_factory, names):
    outer = tmp_path_factory.mktemp("outer")
    (outer / "data.zip").write_bytes(zip_of(dict.fromkeys(names, b"x")))
    try:
        unpack(outer / "data.zip", outer / "in" / "data", 1000, lambda *_: None)
    except DataError:
        assert not list(outer.glob("in/*"))
    else:
        assert [path.name for path in (outer / "in").iterdir()] == ["data"]
    assert {path.name for path in outer.iterdir()} <= {"data.zip", "in"}
