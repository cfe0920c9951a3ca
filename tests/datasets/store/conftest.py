"""Stores of random slides: one large slide, two small ones to read, and two small ones that a test may change."""

from __future__ import annotations

import pytest

from tests.datasets.store.toy_stores import HEIGHT, WIDTH, slide, written


@pytest.fixture(scope="module")
def big(tmp_path_factory):
    arrays = slide(0, HEIGHT, WIDTH)
    return written(tmp_path_factory.mktemp("store") / "store.zarr", {"S1": (("A",), arrays)}), arrays


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    return written(tmp_path_factory.mktemp("two") / "store.zarr", {"S1": (("A",), slide(1)), "S2": ((), slide(2))})


@pytest.fixture
def small(tmp_path):
    return written(tmp_path / "store.zarr", {"S1": (("A",), slide(1)), "S2": ((), slide(2))})
