"""A read-only store of partly annotated slides."""

from __future__ import annotations

import pytest

from tests.datasets.labels.partial_stores import partly_annotated


@pytest.fixture(scope="module")
def partial(tmp_path_factory):
    return partly_annotated(tmp_path_factory.mktemp("partial") / "s.zarr")
