"""Choice of ``network.feature_cache`` where the plan leaves it open, by the size that all features would have."""

from __future__ import annotations

import torch

from tissuebench.common.units import size_of
from tissuebench.datasets.store.tiling import offsets
from tissuebench.evaluation.stitching import Stitching
from tissuebench.evaluation.window_features import window_bytes
from tissuebench.features.shards import MapShapes
from tissuebench.features.tiles import tile_bytes
from tissuebench.methods.networks.settings import FeatureCache
from tissuebench.plans.expand import PlannedData
from tissuebench.plans.schema import Plan


def choose_feature_cache(plan: Plan, data: PlannedData) -> tuple[Plan, str]:
    """Return the plan with the choice made for a dataset, and a line for the user; "" if there is nothing to say.

    The choice depends on network, evaluation and data, but neither on the machine nor on the methods and budgets that
    are compared: it is part of the identity of trials, which other plans are to find.
    """
    network, dataset = plan.network, data.store.info.dataset
    if not network.caches_features or network.feature_cache is FeatureCache.DISK:
        return plan, ""
    tiles, windows = sizes_of_features(plan, data)
    sizes = f"{size_of(tiles)} of training tiles and at most {size_of(windows)} of windows"
    if network.feature_cache is FeatureCache.MEMORY:
        return plan, f"dataset {dataset!r}: each process computes the features it needs and keeps them: {sizes}"
    limit = plan.compute.feature_cache_gb
    is_small = tiles + windows <= limit * 1e9
    chosen = FeatureCache.DISK if is_small else FeatureCache.OFF
    decided = plan.model_copy(update={"network": network.model_copy(update={"feature_cache": chosen})})
    if is_small:
        return decided, ""
    return decided, (
        f"dataset {dataset!r}: features are not cached, as they would take {sizes}, more than "
        f"compute.feature_cache_gb={limit:g}; the encoder sees images in every step "
        "(network.feature_cache: disk or memory caches them all the same)"
    )


def sizes_of_features(plan: Plan, data: PlannedData) -> tuple[int, int]:
    """Return the bytes of the features of all training tiles and, at most, of all windows of the part to score."""
    store, split, edge = data.store, data.split, data.store.info.tile_px
    shapes = MapShapes(plan.network, len(store.class_map))
    how = Stitching.of(plan.evaluation, edge, torch.device("cpu"), "32-true")
    train, scored = (set(split.patients(part)) for part in ("train", plan.evaluation.part))
    n_tiles = sum(
        len(offsets(slide.height, edge)) * len(offsets(slide.width, edge))
        for slide in store.slides.values()
        if slide.patient_id in train
    )
    slides = [slide for slide in store.slides.values() if slide.patient_id in scored]
    windows = window_bytes(how, slides, shapes)
    return n_tiles * tile_bytes(plan.network, shapes, edge), windows
