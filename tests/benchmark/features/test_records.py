"""Records of features: what was written is read; what was cut off or belongs elsewhere is refused."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch

from tests.benchmark.features.shards import written
from tissuebench.common.hashing import content_hash
from tissuebench.errors import DataError
from tissuebench.features.records import Batch, Block, Encoding, hold_shard, open_shard
from tissuebench.plans.trial import short_hash

SHAPES = {"small": ((2, 3, 4), (5, 1, 2)), "large": ((2, 6, 4), (5, 2, 2))}


def encoding(dtype, identity="a"):
    """Two slides whose regions differ in size, three variants; batches do not end with the slides' blocks."""
    blocks = [
        Block(name, 8 * shapes[0][1], 16, tuple((8 * row, row) for row in range(n)), shapes)
        for (name, shapes), n in zip(SHAPES.items(), (5, 3), strict=True)
    ]
    lengths = [34, 68]
    batches = [Batch(2, 34), Batch(3, 34), Batch(3, 68)]
    firsts = (0, 2, 5)

    def read(number):
        return torch.arange(firsts[number], firsts[number] + batches[number].n_regions)[:, None]

    def encode(number, read):
        batch, rows = batches[number], read * 100
        records = [(rows + variant * 10 + torch.arange(batch.length) / 128).float() for variant in range(3)]
        return records, np.full((batch.n_regions, 3), number, np.uint8)

    assert [batch.length for batch in batches] == [lengths[0], lengths[0], lengths[1]]
    return Encoding({"of": identity}, blocks, 3, dtype, batches, read, encode)


def key(identity="a"):
    return short_hash({"of": identity})


@pytest.mark.parametrize("dtype", ["float16", "float32"])
@pytest.mark.parametrize("kill_after", [None, 1, 2])
def test_records_that_differ_in_length_are_read_where_they_were_written(tmp_path, dtype, kill_after):
    work = encoding(dtype)
    opened = open_shard(written(work, tmp_path / key(), kill_after))
    held = hold_shard(work, lambda *_: None)
    assert opened.blocks == held.blocks == tuple(work.blocks)
    assert opened.n_bytes == held.n_bytes
    row = 0
    for block, maps, same, turns in zip(opened.blocks, opened.maps, held.maps, opened.orientations, strict=True):
        assert maps.dtype == dtype
        assert np.array_equal(maps, same)
        for place in range(len(block.places)):
            for variant in range(3):
                expected = (row * 100 + variant * 10 + np.arange(maps.shape[2]) / 128).astype(np.float32)
                assert np.array_equal(maps[place, variant], expected.astype(dtype))
            assert set(turns[place]) == {0 if row < 2 else 1 if row < 5 else 2}
            row += 1
    assert row == 8


def test_a_shard_without_regions_is_one(tmp_path):
    folder = written_empty(tmp_path)
    assert open_shard(folder).blocks == ()


def written_empty(tmp_path):
    from tissuebench.features.records import write_shard

    folder = tmp_path / key("empty")
    folder.mkdir()
    write_shard(
        folder, Encoding({"of": "empty"}, [], 1, "float32", [], int, lambda number, read: ([], np.empty(0))), print
    )
    return folder


def edit(folder, change):
    path = folder / "index.json"
    content = json.loads(path.read_text())["content"]
    change(content)
    path.write_text(json.dumps({"sha256": content_hash(content), "content": content}))


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda f: truncate(f / "maps.float16", 2), "shorter or longer"),
        (lambda f: truncate(f / "maps.float16", 1), "in the middle of a number"),
        (lambda f: truncate(f / "orientations.uint8", 1), "shorter or longer"),
        (lambda f: (f / "maps.float16").unlink(), "No such file"),
        (lambda f: (f / "index.json").unlink(), "no such file"),
        (lambda f: edit(f, lambda content: content["identity"].update(of="b")), "that of another shard"),
        (lambda f: edit(f, lambda content: content["blocks"].pop()), "shorter or longer"),
        (lambda f: edit(f, lambda content: content.pop("dtype")), "dtype"),
        (lambda f: edit(f, lambda content: content.update(dtype="object")), "not usable"),
        (lambda f: (f / "index.json").write_text("{}"), "not a file of this suite"),
        (lambda f: (f / "index.json").write_text((f / "index.json").read_text().replace("16", "17")), "edited by hand"),
    ],
)
def test_a_damaged_or_foreign_shard_is_refused_in_one_line(tmp_path, damage, says):
    folder = written(encoding("float16"), tmp_path / key())
    damage(folder)
    with pytest.raises(DataError, match=says) as error:
        open_shard(folder)
    assert str(folder) in str(error.value)
    assert "delete" in str(error.value) or "no such file" in str(error.value)
    assert "\n" not in str(error.value)


def test_a_shard_under_another_name_is_refused(tmp_path):
    folder = written(encoding("float16"), tmp_path / key())
    shutil.copytree(folder, tmp_path / key("b"))
    with pytest.raises(DataError, match="its index is that of another shard"):
        open_shard(tmp_path / key("b"))


def truncate(path, n_bytes):
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size - n_bytes)
