"""Fetching from a real HTTP server on the loopback that breaks off, forgets ranges, fails and recovers on demand."""

from __future__ import annotations

import hashlib
import io
import re
import stat
import tarfile
import threading
import zipfile
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tissuebench.datasets.catalog import find_recipe, recipe_names
from tissuebench.datasets.catalog.recipe import Download, Recipe
from tissuebench.datasets.download.archives import unpack
from tissuebench.datasets.download.fetch import fetch
from tissuebench.datasets.download.http import Retry
from tissuebench.datasets.types import ClassMap
from tissuebench.errors import DataError

FAST = Retry(attempts=4, first_wait_seconds=0.001, timeout_seconds=10)


@dataclass
class Served:
    """What the server does with its next requests, and what it was asked for."""

    body: bytes
    ranges: bool = True
    etag: str = '"one"'
    content_type: str = "application/zip"
    statuses: list[int] = field(default_factory=list)  # answered before anything else, one a request
    break_after: list[int] = field(default_factory=list)  # bytes sent before the connection is closed, one a request
    lengths: bool = True
    confused: bool = False  # answers a range with 206 from the first byte on
    asked: list[str | None] = field(default_factory=list)  # the Range of every request


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        served = self.server.served
        wanted = self.headers.get("Range")
        served.asked.append(wanted)
        if served.statuses:
            self.send_error(served.statuses.pop(0))
            return
        start = 0
        if served.ranges and wanted and self.headers.get("If-Range", served.etag) == served.etag:
            start = int(re.fullmatch(r"bytes=(\d+)-", wanted)[1])
            if start >= len(served.body):
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{len(served.body)}")
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            start = 0 if served.confused else start
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{len(served.body) - 1}/{len(served.body)}")
        else:
            self.send_response(200)
        self.send_header("Content-Type", served.content_type)
        if served.lengths:
            self.send_header("Content-Length", str(len(served.body) - start))
        if served.etag:
            self.send_header("ETag", served.etag)
        self.end_headers()
        end = len(served.body)
        if served.break_after:
            end = min(end, start + served.break_after.pop(0))
        self.wfile.write(served.body[start:end])
        self.close_connection = True

    def log_message(self, *_):
        pass


@pytest.fixture
def serve(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    servers = []

    def start(body, **how):
        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        server.served = Served(body, **how)
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        servers.append(server)
        return server.served, f"http://127.0.0.1:{server.server_port}/data.zip"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def zip_of(members):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return buffer.getvalue()


NOISE = np.random.default_rng(0).bytes(400_000)
GOOD = zip_of({"a/one.txt": b"one", "a/noise.bin": NOISE, "__MACOSX/a/._one.txt": b"x"})


def recipe_of(*downloads, by_hand=""):
    return Recipe(
        name="toy",
        version=1,
        title="a toy",
        licence="CC0",
        source="nowhere",
        class_map=ClassMap(("a", "b"), ((0, 0, 0), (1, 1, 1))),
        tile_px=32,
        mpp=None,
        rows=lambda _: [],
        downloads=downloads,
        by_hand=by_hand,
    )


def sha256(data):
    return hashlib.sha256(data).hexdigest()


def download_of(url, body=GOOD, **how):
    return Download("data.zip", url, **{"sha256": sha256(body), **how})


def run(recipe, folder):
    said, seen = [], []
    result = fetch(recipe, folder, lambda *step: seen.append(step), said.append, FAST)
    assert result == folder
    return said, seen


def refused(recipe, folder):
    with pytest.raises(DataError) as raised:
        run(recipe, folder)
    assert "\n" not in str(raised.value)
    return str(raised.value)


def require_whole(folder):
    assert (folder / "data" / "a" / "one.txt").read_bytes() == b"one"
    assert (folder / "data" / "a" / "noise.bin").read_bytes() == NOISE
    assert sorted(path.name for path in folder.iterdir() if path.suffix != ".sha256") == ["data", "data.zip"]


def test_a_good_archive_is_fetched_once(serve, tmp_path):
    served, url = serve(GOOD)
    recipe = recipe_of(download_of(url))
    said, seen = run(recipe, tmp_path / "raw")
    require_whole(tmp_path / "raw")
    assert said == ["a toy: licence: CC0"]
    bytes_seen = [step for step in seen if step[0] == "downloading data.zip"]
    assert bytes_seen[-1] == ("downloading data.zip", len(GOOD), len(GOOD))
    assert [step[1] for step in bytes_seen] == sorted(step[1] for step in bytes_seen)
    assert seen[-1] == ("unpacking data.zip", 3, 3)
    assert run(recipe, tmp_path / "raw") == ([], [])
    assert served.asked == [None]


def test_a_folder_that_was_deleted_is_unpacked_again_without_a_download(serve, tmp_path):
    served, url = serve(GOOD)
    recipe = recipe_of(download_of(url))
    run(recipe, tmp_path)
    (tmp_path / "data" / "a" / "one.txt").unlink()
    (tmp_path / "data").rename(tmp_path / "elsewhere")
    run(recipe, tmp_path)
    assert (tmp_path / "data" / "a" / "one.txt").read_bytes() == b"one"
    assert len(served.asked) == 1


def test_md5_is_as_good(serve, tmp_path):
    _, url = serve(GOOD)
    run(recipe_of(download_of(url, sha256=None, md5=hashlib.md5(GOOD).hexdigest())), tmp_path)
    require_whole(tmp_path)
    (tmp_path / "elsewhere").mkdir()
    message = refused(recipe_of(download_of(url, sha256=None, md5="0" * 32)), tmp_path / "elsewhere")
    assert "expected md5:" + "0" * 32 in message


def test_a_broken_connection_is_resumed_where_it_broke(serve, tmp_path):
    served, url = serve(GOOD, break_after=[200_000])
    run(recipe_of(download_of(url)), tmp_path)
    require_whole(tmp_path)
    assert served.asked[0] is None
    assert len(served.asked) == 2
    assert 0 < int(served.asked[1].removeprefix("bytes=").removesuffix("-")) <= 200_000


def test_what_came_before_the_last_try_serves_the_next_call(serve, tmp_path):
    served, url = serve(GOOD, break_after=[150_000, 0, 0, 0])
    recipe = recipe_of(download_of(url))
    message = refused(recipe, tmp_path)
    assert "4 tries; run the command again to go on" in message
    assert not (tmp_path / "data.zip").exists()
    assert not (tmp_path / "data").exists()
    have = (tmp_path / "data.zip.part").stat().st_size
    assert 0 < have <= 150_000
    run(recipe, tmp_path)
    require_whole(tmp_path)
    assert served.asked[-1] == f"bytes={have}-"


def test_a_server_that_says_the_length_in_the_range_only_is_not_believed_too_early(serve, tmp_path):
    served, url = serve(GOOD, break_after=[100_000, 100_000])
    served.break_after += [0, 0]
    refused(recipe_of(download_of(url)), tmp_path)
    served.lengths, served.break_after = False, [50_000]
    run(recipe_of(download_of(url, sha256=None)), tmp_path)
    require_whole(tmp_path)
    assert len(served.asked) == 6


def test_a_server_that_resumes_at_another_place_is_asked_for_all_again(serve, tmp_path):
    served, url = serve(GOOD, break_after=[200_000], confused=True)
    run(recipe_of(download_of(url)), tmp_path)
    require_whole(tmp_path)
    assert [asked is None for asked in served.asked] == [True, False, True]


def test_a_server_without_ranges_is_asked_for_all_again(serve, tmp_path):
    served, url = serve(GOOD, ranges=False, break_after=[200_000])
    run(recipe_of(download_of(url)), tmp_path)
    require_whole(tmp_path)
    assert len(served.asked) == 2


def test_a_file_that_changed_between_two_calls_is_not_mixed(serve, tmp_path):
    served, url = serve(GOOD, break_after=[200_000, 0, 0, 0])
    refused(recipe_of(download_of(url)), tmp_path)
    other = zip_of({"a/one.txt": b"two", "a/noise.bin": NOISE[::-1]})
    served.body, served.etag = other, '"two"'
    run(recipe_of(download_of(url, other)), tmp_path)
    assert (tmp_path / "data" / "a" / "one.txt").read_bytes() == b"two"
    assert len(served.asked) == 5


@pytest.mark.parametrize("extra", [b"", b"longer than the file"])
def test_a_part_that_is_whole_or_longer_does_not_loop(serve, tmp_path, extra):
    served, url = serve(GOOD)
    (tmp_path / "data.zip.part").write_bytes(GOOD + extra)
    run(recipe_of(download_of(url)), tmp_path)
    require_whole(tmp_path)
    assert served.asked == ([f"bytes={len(GOOD)}-"] if not extra else [f"bytes={len(GOOD + extra)}-", None])


def test_a_wrong_checksum_is_deleted_and_the_next_call_begins_anew(serve, tmp_path):
    served, url = serve(GOOD + b"tail")
    recipe = recipe_of(download_of(url))
    message = refused(recipe, tmp_path)
    assert f"{tmp_path / 'data.zip'}: wrong checksum" in message
    assert sha256(GOOD) in message
    assert sha256(GOOD + b"tail") in message
    assert list(tmp_path.iterdir()) == []
    served.body = GOOD
    run(recipe, tmp_path)
    require_whole(tmp_path)


def test_an_archive_that_rots_is_not_unpacked_again(serve, tmp_path):
    _, url = serve(GOOD)
    (tmp_path / "data.zip").write_bytes(GOOD[:-1] + b"x")
    message = refused(recipe_of(download_of(url)), tmp_path)
    assert "wrong checksum" in message
    assert "delete it" in message
    assert (tmp_path / "data.zip").exists()


def test_failures_that_pass_are_tried_again_a_limited_number_of_times(serve, tmp_path):
    served, url = serve(GOOD, statuses=[500, 503, 429])
    run(recipe_of(download_of(url)), tmp_path / "a")
    require_whole(tmp_path / "a")
    assert len(served.asked) == 4
    served.statuses = [500] * 100
    message = refused(recipe_of(download_of(url)), tmp_path / "b")
    assert f"{url}: the server says 500" in message
    assert len(served.asked) == 8


@pytest.mark.parametrize("status", [404, 403, 410])
def test_a_refusal_is_not_tried_again(serve, tmp_path, status):
    served, url = serve(GOOD, statuses=[status] * 100)
    message = refused(recipe_of(download_of(url), by_hand="write to them"), tmp_path)
    assert f"{url}: the server says {status}" in message
    assert f"or by hand: write to them, save it as '{tmp_path / 'data.zip'}'" in message
    assert len(served.asked) == 1


def test_a_web_page_in_place_of_the_file_is_refused(serve, tmp_path):
    _, url = serve(b"<html>sign in</html>", content_type="text/html; charset=utf-8")
    assert "sends a web page in place of the file" in refused(recipe_of(download_of(url, sha256=None)), tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("url", ["http://127.0.0.1:9/x.zip", "nothing://x", "http://"])
def test_an_address_that_nobody_answers_is_one_line(monkeypatch, tmp_path, url):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    assert refused(recipe_of(download_of(url)), tmp_path).startswith(f"{url}: ")


def test_without_a_published_checksum_the_first_one_counts(serve, tmp_path):
    served, url = serve(GOOD)
    recipe = recipe_of(download_of(url, sha256=None))
    said, _ = run(recipe, tmp_path)
    assert len(said) == 2
    assert "nobody published a checksum; taken on trust" in said[1]
    assert sha256(GOOD) in said[1]
    (tmp_path / "data").rename(tmp_path / "elsewhere")
    assert len(run(recipe, tmp_path)[0]) == 1
    (tmp_path / "data").rename(tmp_path / "elsewhere" / "too")
    (tmp_path / "data.zip").unlink()
    served.body = zip_of({"a/one.txt": b"another"})
    assert "wrong checksum" in refused(recipe, tmp_path)
    assert not (tmp_path / "data").exists()
    (tmp_path / "data.zip.sha256").write_text("nonsense")
    assert "is not a sha256; delete it" in refused(recipe, tmp_path)


def test_what_is_got_by_hand_is_named_and_taken_once_it_is_there(tmp_path):
    recipe = recipe_of(Download("Some Data.zip"), Download("More.tar.gz"), by_hand="download both of example.org")
    folder = tmp_path / "data" / "toy" / "raw"
    message = refused(recipe, folder)
    assert "download both of example.org" in message
    assert f"save it as '{folder / 'Some Data.zip'}' and '{folder / 'More.tar.gz'}'" in message
    folder.mkdir(parents=True)
    (folder / "Some Data.zip").write_bytes(GOOD)
    message = refused(recipe, folder)
    assert "Some Data.zip" not in message
    assert "More.tar.gz" in message
    with tarfile.open(folder / "More.tar.gz", "w:gz") as archive:
        archive.add(folder / "Some Data.zip", "b/inner.zip")
    said, _ = run(recipe, folder)
    assert (folder / "Some Data" / "a" / "noise.bin").read_bytes() == NOISE
    assert (folder / "More" / "b" / "inner.zip").read_bytes() == GOOD
    assert [line.split(":")[0] for line in said] == ["a toy", "Some Data.zip", "More.tar.gz"]
    assert run(recipe, folder) == ([], [])


def test_a_folder_that_a_person_unpacked_needs_no_archive(tmp_path):
    (tmp_path / "Some Data").mkdir()
    assert run(recipe_of(Download("Some Data.zip")), tmp_path) == ([], [])


def test_nothing_to_fetch_is_said():
    assert "has nothing to fetch; its files: nowhere" in refused(recipe_of(), None)


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
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
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


@pytest.mark.parametrize("name", [name for name in recipe_names() if name != "folder"])
def test_the_catalog_says_how_to_get_each_archive(name):
    recipe = find_recipe(name)
    for item in recipe.downloads:
        assert item.url is None or item.url.startswith("https://")
        assert item.url is not None or recipe.by_hand
        assert "/" not in item.file_name
        assert item.sha256 is None or re.fullmatch("[0-9a-f]{64}", item.sha256)
        assert item.md5 is None or re.fullmatch("[0-9a-f]{32}", item.md5)
    assert recipe.licence
