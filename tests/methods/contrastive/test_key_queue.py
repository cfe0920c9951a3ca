"""The queue of keys: first in, first out, whatever the size of batches, in one process and in three."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.processes import run_processes, start_script
from tests.properties import examples
from tissuebench.methods.api.whole_batch import gathered
from tissuebench.methods.contrastive.key_queue import KeyQueue

GOLDEN = Path(__file__).parents[2] / "golden"
PARTS = ((3, 0, 1), (2, 2, 2), (1, 4, 0), (5, 3, 4), (0, 0, 0), (0, 0, 6))


def queue(length=5, shape=(2,), seed=0):
    return KeyQueue(length, shape, torch.Generator().manual_seed(seed))


def numbered(first, count, shape=(2,)):
    """Keys that hold their number."""
    return (torch.arange(first, first + count).float().view(-1, *[1] * len(shape))).expand(count, *shape)


def test_golden_trace():
    with np.load(GOLDEN / "action_distill.npz", allow_pickle=False) as arrays:
        columns, pointers = arrays["fifo_col0_trace"], arrays["fifo_ptr_trace"].tolist()
    keys = queue(12)
    keys.keys.zero_()
    for number, (column, pointer) in enumerate(zip(columns, pointers, strict=True), start=1):
        keys.push(torch.full((4, 2), float(number)))
        assert keys.keys[:, 0].tolist() == column.tolist() and keys.pointer == pointer


def test_begins_with_normals_of_its_generator():
    keys = queue(400, (30,)).keys
    assert keys.dtype == torch.float32 and not keys.requires_grad
    assert keys.std() == pytest.approx(1, abs=0.02) and abs(keys.mean()) < 0.03
    assert torch.equal(keys, queue(400, (30,)).keys) and not torch.equal(keys, queue(400, (30,), seed=1).keys)


@examples(60)
@given(st.integers(1, 7), st.lists(st.integers(0, 20), max_size=6), st.sampled_from([(), (2,), (3, 2)]))
def test_is_a_list_whose_oldest_are_overwritten(length, counts, shape):
    keys = queue(length, shape)
    expected, pushed = keys.keys.clone(), 0
    for count in counts:
        keys.push(numbered(pushed, count, shape))
        for number in range(pushed, pushed + count):
            expected[number % length] = number
        pushed += count
        assert torch.equal(keys.keys, expected) and keys.pointer == pushed % length


def test_keys_have_no_gradient_and_are_float32():
    keys = queue()
    given_keys = torch.ones(3, 2, dtype=torch.bfloat16, requires_grad=True)
    keys.push(given_keys * 2)
    assert keys.keys.dtype == torch.float32 and not keys.keys.requires_grad
    assert not list(keys.parameters())
    assert keys.keys[:3].tolist() == [[2, 2]] * 3


def test_goes_on_bit_for_bit():
    one, other = queue(), queue(seed=9)
    one.push(numbered(0, 3))
    other.load_state_dict(one.state_dict())
    assert set(one.state_dict()) == {"keys", "pointer"}
    for each in (one, other):
        each.push(numbered(7, 4))
    assert torch.equal(one.keys, other.keys) and one.pointer == other.pointer == 2


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="positive length"):
        queue(0)
    for keys in (torch.zeros(3), torch.zeros(3, 4), torch.zeros(3, 2, 1)):
        with pytest.raises(ValueError, match="keys"):
            queue().push(keys)


def test_alone_nothing_is_gathered():
    (part,) = gathered(torch.ones(2, requires_grad=True))
    assert part.tolist() == [1, 1] and not part.requires_grad


def test_three_processes_with_unlike_parts_have_the_queue_of_one(tmp_path):
    start_script("tests.methods.contrastive.test_key_queue", str(tmp_path))
    keys, expected, pushed = queue(), [], 0
    for counts in PARTS:
        keys.push(numbered(pushed, sum(counts)))
        pushed += sum(counts)
        expected.append([keys.keys.tolist(), keys.pointer.item()])
    for rank in range(3):
        assert json.loads((tmp_path / f"{rank}.json").read_text()) == [expected, expected]


if __name__ == "__main__":

    def say(world):
        found = []
        for shuffled in (False, True):
            keys, pushed = queue(), 0
            found.append([])
            for counts in PARTS:
                first = sum(counts[: world.rank])
                mine = torch.arange(first, first + counts[world.rank])
                if shuffled:  # each process has tiles from all over the batch
                    mine = torch.randperm(sum(counts), generator=torch.Generator().manual_seed(1))[mine]
                keys.push(numbered(pushed, sum(counts))[mine], mine if shuffled else None)
                pushed += sum(counts)
                found[-1].append([keys.keys.tolist(), keys.pointer.item()])
        (Path(sys.argv[1]) / f"{world.rank}.json").write_text(json.dumps(found))

    run_processes(3, say)
