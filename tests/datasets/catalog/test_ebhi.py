"""The recipe of EBHI-Seg on the real data."""

from __future__ import annotations

import csv

import numpy as np

from tissuebench.datasets.annotations import Frame, open_annotation
from tissuebench.datasets.catalog import find_recipe
from tissuebench.datasets.readers import open_slide
from tissuebench.datasets.splits import official_split
from tissuebench.datasets.weak_labels import excluded_classes


def test_rows_split_and_masks_are_those_of_the_readme(shared_data):
    root = shared_data / "ebhi_seg"
    recipe = find_recipe("ebhi")
    rows = recipe.rows(root)
    assert len(rows) == 658
    split = official_split("ebhi", ((row.patient_id, row.split) for row in rows))
    assert [len(split.patients(part)) for part in ("train", "val", "test")] == [148, 43, 64]
    with (root / "manifest.csv").open(newline="") as handle:
        described = list(csv.DictReader(handle))
    for row, line in list(zip(rows, described, strict=True))[::40]:
        with open_slide(row.image, recipe.mpp) as slide:
            assert slide.level0_size == (slide.height, slide.width) == (224, 224)
        labels = open_annotation(row.annotation, recipe.class_map, Frame((224, 224), (224, 224), 1.0))
        mask = labels.raster(0, 0, 224, 224)
        kind = int(line["class_id"])
        assert set(np.unique(mask)) <= {0, kind}
        assert abs((mask == kind).mean() - float(line["fg_fraction"])) < 1e-3
        excluded = excluded_classes(row.diagnosis, recipe.class_map)
        assert excluded.sum() == 5
        assert not excluded[0]
        assert not excluded[kind]
