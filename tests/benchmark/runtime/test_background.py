"""Threads beside the one that predicts: order and errors are those of doing one thing after the other."""

from __future__ import annotations

import threading

import numpy as np
import pytest
import torch

from tests.benchmark.evaluation.painted import store_of, view_of
from tests.benchmark.evaluation.test_evaluate import ByColour
from tissuebench.datasets.store.shards import ShardCache
from tissuebench.errors import DataError
from tissuebench.evaluation import evaluate as module
from tissuebench.evaluation.canvas import LabelCanvas
from tissuebench.evaluation.evaluate import evaluate
from tissuebench.evaluation.overlays import TilePicker
from tissuebench.plans.schema import EvaluationSettings
from tissuebench.runtime.background import Background, read_ahead

CPU = torch.device("cpu")


def threads():
    return [thread for thread in threading.enumerate() if thread.name.startswith(("reading-ahead", "background"))]


def test_the_next_item_is_read_while_one_is_used():
    begun = [threading.Event() for _ in range(4)]

    def read(item):
        begun[item].set()
        return -item

    for item, got in read_ahead(range(4), read):
        assert got == -item
        assert all(event.wait(10) for event in begun[: item + 2])  # a serial reader would begin the next one later
        assert not any(event.is_set() for event in begun[item + 2 :])
    assert list(read_ahead([], read)) == []
    assert not threads()


def test_a_reading_error_comes_with_its_item_and_the_thread_ends():
    def read(item):
        if item == 1:
            raise DataError("slide: chunk is damaged")
        return item

    used = []
    with pytest.raises(DataError, match="damaged"):
        for item, _ in read_ahead(range(3), read):
            used.append(item)
    assert used == [0]
    reading = read_ahead(range(3), lambda item: item)
    next(reading)
    reading.close()  # whoever stops early
    assert not threads()


def test_one_job_at_a_time_whose_error_surfaces():
    with Background() as background:
        assert background.wait() is None
        background.start(lambda: "first")
        with pytest.raises(RuntimeError, match="wait"):
            background.start(lambda: "second")
        assert background.wait() == "first"
        background.start(lambda: 1 // 0)
        with pytest.raises(ZeroDivisionError):
            background.wait()
        assert background.wait() is None
    assert not threads()


@pytest.fixture
def store(tmp_path):
    rng = np.random.default_rng(3)
    truth = [rng.integers(0, 4, (60, 80), dtype=np.uint8) for _ in range(4)]
    return store_of(tmp_path, {f"s{n}": (each, each, ()) for n, each in enumerate(truth)})


def test_boundaries_are_counted_while_the_next_slide_is_predicted_and_two_canvases_exist_at_most(store, monkeypatch):
    """The boundaries of slide n wait until slide n + 1 is being predicted: one after the other would never end."""
    canvases, most, next_slide = [], [], [threading.Event() for _ in range(5)]
    real, boundaries, done = LabelCanvas.__exit__, module.boundaries_by_blocks, []

    class Watched(LabelCanvas):
        def __init__(self, *args):
            super().__init__(*args)
            canvases.append(self)
            most.append(len(canvases))

        def __exit__(self, *args):
            canvases.remove(self)
            return real(self, *args)

    class Told(ByColour):
        def predict(self, images):
            next_slide[len(most) - 1].set()
            return super().predict(images)

    def wait_for_the_next(*args):
        if len(done) < 3:
            assert next_slide[len(done) + 1].wait(20), "the next slide is not predicted meanwhile"
        found = boundaries(*args)
        done.append(found)
        return found

    monkeypatch.setattr(module, "LabelCanvas", Watched)
    monkeypatch.setattr(module, "boundaries_by_blocks", wait_for_the_next)
    picker = TilePicker(store)
    rows = evaluate(Told(), store, view_of(store), EvaluationSettings(window_px=32), CPU, "32-true", picker=picker)
    assert len(done) == 4 and max(most) == 2 and not canvases and not threads()
    for row, found in zip(rows, done, strict=True):
        np.testing.assert_array_equal(row.boundaries, found)
        assert row.seconds > 0
    assert len(picker.chosen) == 4


def test_an_error_in_the_thread_ends_the_evaluation(store, monkeypatch):
    def broken(*args):
        raise DataError("slide s0: its labels cannot be read")

    monkeypatch.setattr(module, "boundaries_by_blocks", broken)
    with pytest.raises(DataError, match="s0"):
        evaluate(ByColour(), store, view_of(store), EvaluationSettings(window_px=32), CPU, "32-true")
    assert not threads()


def test_threads_share_a_cache_of_shards(store):
    """Each of them evicts what the others are about to use."""
    twin = store.frugal(max_open=1)
    assert isinstance(twin._shards, ShardCache)
    expected = {name: store.image(name, 0, 0, 60, 80) for name in store.slides}
    wrong = []

    def read(names):
        for name in names * 200:
            try:
                if not np.array_equal(twin.image(name, 0, 0, 60, 80), expected[name]):
                    wrong.append(name)
            except Exception as error:
                wrong.append(error)

    names = list(store.slides)
    workers = [threading.Thread(target=read, args=(names[n:] + names[:n],)) for n in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert not wrong
