"""Shards computed in a test, and cut off where it says so."""

from __future__ import annotations

import torch

from tissuebench.features.records import write_shard
from tissuebench.features.shards import FrozenEncoder
from tissuebench.features.tiles import plan_tiles, tile_encoding

FROZEN = ("network.encoder_mode=frozen", "network.encoder=tf_efficientnet_lite0", "network.weights=package")
CPU = torch.device("cpu")


class Killed(BaseException):
    """What a kill looks like from within."""


def written(encoding, folder, kill_after=None):
    """A shard in ``folder``; with ``kill_after`` the work is cut off after so many reports, and taken up again."""
    folder.mkdir(parents=True)
    reports = []

    def report(done, total):
        reports.append(done)
        if kill_after is not None and len(reports) == kill_after:
            raise Killed

    for attempt in range(2):
        try:
            write_shard(folder, encoding, report)
        except Killed:
            assert attempt == 0
            with next(folder.glob("maps.*")).open("ab") as file:
                file.write(b"half a record")  # what a kill in the middle of writing leaves
            continue
        break
    assert reports == sorted(set(reports))  # no batch twice
    assert max(reports, default=0) == sum(len(block.places) for block in encoding.blocks)
    return folder


def given_by(plan, data):
    return plan.network, plan.augmentation, data.store, data.split


def planned_tiles(plan, data):
    """The shards of the training tiles, as they are planned."""
    encoder = FrozenEncoder(plan.network, len(data.store.class_map))
    return plan_tiles(encoder, plan.augmentation, data.store, data.split)


def tile_shards(plan, data, folder, kill_after=None):
    """All shards of the training tiles in ``folder``."""
    shards = planned_tiles(plan, data)
    encodings = [tile_encoding(shard.identity, *given_by(plan, data), CPU) for shard in shards]
    return shards, [written(one, folder / shard.key, kill_after) for one, shard in zip(encodings, shards, strict=True)]
