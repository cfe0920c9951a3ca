"""Streams with augmentation settings of their own, in place of the plan's."""

from __future__ import annotations

import pytest
import torch

from tests.datasets.loading.steps import SEED, Bank, digest, view_of
from tissuebench.common.own_settings import in_place_of
from tissuebench.datasets.loading.augment_settings import AugmentSettings
from tissuebench.datasets.loading.datamodule import TileDataModule
from tissuebench.datasets.types import Stream, Supervision
from tissuebench.errors import ConfigError

AS_THEY_ARE = {"orientations": "none", "color": 0, "hue": 0}


def module_of(tiny_data, own, shared=None, **options):
    streams = {
        "annotated": Stream(Supervision.MASKS, 4, augmentation=own),
        "unlabelled": Stream(Supervision.NONE, 3),
    }
    view = view_of(tiny_data.store, tiny_data.split)
    return TileDataModule(tiny_data.store, view, streams, SEED, 5, shared or AugmentSettings(), **options)


def shown(module, step=0):
    return module.on_after_batch_transfer(module.steps[step], 0)


def test_a_stream_with_its_own_settings_leaves_the_others_alone(tiny_data):
    shared, own = module_of(tiny_data, {}), module_of(tiny_data, AS_THEY_ARE)
    assert torch.equal(shown(own)["annotated"].images, own.steps[0]["annotated"].images.float() / 255)
    assert digest(shown(own)["unlabelled"]) == digest(shown(shared)["unlabelled"])
    assert digest(shown(own)["annotated"]) != digest(shown(shared)["annotated"])


def test_settings_that_a_stream_does_not_name_are_the_plans(tiny_data):
    plan = AugmentSettings(color=0.5, stain=0.1)
    partly = module_of(tiny_data, {"hue": 0.2}, plan)
    wholly = module_of(tiny_data, {}, AugmentSettings(color=0.5, stain=0.1, hue=0.2))
    assert digest(shown(partly)["annotated"]) == digest(shown(wholly)["annotated"])
    assert in_place_of(plan, {}) is plan


def test_crops_of_a_stream_are_those_of_its_labels(tiny_data):
    """Colours are far apart, so the class of each pixel can be read off the augmented image itself."""
    module = module_of(tiny_data, {**AS_THEY_ARE, "orientations": "flips", "crop_px": 20})
    colours = torch.tensor(tiny_data.store.class_map.colors).float() / 255
    for step in range(4):
        batch = shown(module, step)
        annotated = batch["annotated"]
        assert annotated.images.shape == (4, 3, 20, 20)
        distance = (annotated.images[:, None] - colours[None, :, :, None, None]).square().sum(dim=2)
        assert torch.equal(distance.argmin(dim=1), annotated.masks)
        assert batch["unlabelled"].images.shape == (3, 3, 32, 32)


@pytest.mark.parametrize(
    ("own", "message"),
    [
        ({"colour": 0}, r"augmentation: unknown key 'colour': did you mean 'color'\? [^\n]*"),
        ({"blur": 9}, r"augmentation: key 'blur': [^\n]* less than or equal to 8"),
        ({"blur_from": 1}, r"augmentation: [^\n]*blur_from \(1\) is larger than blur \(0\)[^\n]*"),
        ({"crop_px": 33}, r"augmentation\.crop_px: a crop of 33 px is larger than a tile of 32 px; [^\n]*"),
    ],
)
def test_a_wrong_setting_is_one_line_that_names_stream_and_key(tiny_data, own, message):
    with pytest.raises(ConfigError, match=f"^stream 'annotated': {message}$"):
        module_of(tiny_data, own)


def test_cached_features_cannot_be_augmented_by_a_stream(tiny_data):
    module_of(tiny_data, {}, features=Bank())
    with pytest.raises(
        ConfigError, match=r"^stream 'annotated' has an augmentation of its own, [^\n]*feature_cache=off"
    ):
        module_of(tiny_data, AS_THEY_ARE, features=Bank())


def test_a_plan_whose_crops_are_larger_than_its_tiles_is_refused(tiny_data):
    with pytest.raises(ConfigError, match=r"crop_px: a crop of 40 px"):
        module_of(tiny_data, {}, AugmentSettings(crop_px=40))


def test_streams_can_be_compared_and_hashed_as_before():
    plain, own = Stream(Supervision.MASKS, 4), Stream(Supervision.MASKS, 4, augmentation=AS_THEY_ARE)
    assert plain == Stream(Supervision.MASKS, 4) != own
    assert len({plain, own}) == 2
