from __future__ import annotations

import pytest

from tissuebench.common.hashing import content_hash
from tissuebench.datasets.labels.draw_budget import draw_budget
from tissuebench.datasets.labels.view import LabelView
from tissuebench.datasets.loading.sampling import stream_tree
from tissuebench.datasets.types import Stream, Supervision, Tile
from tissuebench.errors import ConfigError

ALL_KINDS = frozenset({Supervision.MASKS, Supervision.TAGS, Supervision.DIAGNOSIS})
GOLDEN = {
    ("masks:3p", 0): ("8092e99b8d24a4ef", "8d7c3a0788cb6208"),
    ("masks:2p", 1): ("8e65946a45f59e9e", "d257c0e0c594aa19"),
    ("masks:all", 2): ("5eb1fe469c485dd9", "a47db9310952b29a"),
}
DIAGNOSED, ANY = ("c93ca3bd0ade847d", "fc1ecc52264d0574"), ("eddc85e9359f5b6c", "fc1ecc52264d0574")


def plain(tree):
    return [tree.slide_id, tree.y, tree.x] if isinstance(tree, Tile) else [plain(branch) for branch in tree]


def view_of(tiny_data, spec, replicate):
    budget = draw_budget(tiny_data.store, tiny_data.split, spec, replicate)
    return LabelView.for_training(tiny_data.store, tiny_data.split, budget, ALL_KINDS)


@pytest.mark.parametrize(("spec", "replicate"), GOLDEN)
def test_trees_are_those_of_the_first_version(tiny_data, spec, replicate):
    """Recorded when classes were still read off the rasters: the tile table must sort the tiles alike."""
    view = view_of(tiny_data, spec, replicate)
    expected = {
        Supervision.MASKS: GOLDEN[spec, replicate],
        Supervision.TAGS: GOLDEN[spec, replicate],
        Supervision.DIAGNOSIS: DIAGNOSED,
        Supervision.NONE: ANY,
    }
    for kind, digests in expected.items():
        for balanced, digest in zip((True, False), digests, strict=True):
            tree = stream_tree("s", Stream(kind, 4, balanced), tiny_data.store, view, 32, 0)
            assert content_hash(plain(tree))[:16] == digest, (kind, balanced)


def test_a_stream_without_a_bought_tile_is_one_line(tiny_data):
    view = view_of(tiny_data, "tags:2p", 0)
    assert stream_tree("tagged", Stream(Supervision.TAGS, 4), tiny_data.store, view, 32, 0)
    with pytest.raises(ConfigError, match=r"^stream 'annotated' \(masks\) has no tile in this budget$"):
        stream_tree("annotated", Stream(Supervision.MASKS, 4), tiny_data.store, view, 32, 0)
