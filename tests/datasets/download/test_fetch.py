"""Fetching from a real HTTP server on the loopback that breaks off, forgets ranges, fails and recovers on demand."""

from __future__ import annotations

import hashlib
import re
import tarfile

import pytest

from tests.datasets.download.toy_recipes import (
    GOOD,
    NOISE,
    download_of,
    recipe_of,
    refused,
    require_whole,
    run,
    sha256,
    zip_of,
)
from tissuebench.datasets.catalog import find_recipe, recipe_names
from tissuebench.datasets.catalog.recipe import Download


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
    assert "4 attempts; run the command again to resume" in message
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
    assert f"or manually: write to them, save it as '{tmp_path / 'data.zip'}'" in message
    assert len(served.asked) == 1


def test_a_web_page_in_place_of_the_file_is_refused(serve, tmp_path):
    _, url = serve(b"<html>sign in</html>", content_type="text/html; charset=utf-8")
    assert "sends a web page instead of the file" in refused(recipe_of(download_of(url, sha256=None)), tmp_path)
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
    assert "no checksum is published; accepted as it is" in said[1]
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
