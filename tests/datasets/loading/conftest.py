"""Fixtures for loading: training steps of the tiny data, a view of its labels, and a lookup from pixels to tiles."""

from __future__ import annotations

import pytest

from tests.datasets.loading.steps import dataset_of, view_of
from tissuebench.datasets.store.tiling import grid


@pytest.fixture(scope="module")
def dataset(tiny_data):
    return dataset_of(tiny_data.store, tiny_data.split)


@pytest.fixture
def view(tiny_data):
    return view_of(tiny_data.store, tiny_data.split)


@pytest.fixture
def where(tiny_data):
    """From the pixels of a training tile to the tile: noise makes every tile's pixels its own."""
    found = {}
    for slide in tiny_data.store.slides.values():
        for tile in grid(slide, 32):
            found[tiny_data.store.image(tile.slide_id, tile.y, tile.x, 32, 32).tobytes()] = tile
    return lambda images: [found[image.numpy().tobytes()] for image in images]
