"""Identity of augmentation settings, and settings that are refused."""

from __future__ import annotations

import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from tissuebench.datasets.loading.augment_settings import AugmentSettings
from tissuebench.errors import ConfigError

FIRST = {"color": 0.2, "hue": 0.03, "scale": 0.0, "blur": 0.0, "stain": 0.0}
OTHERS = {
    "orientations": "flips",
    "brightness": 0.2,
    "contrast": 0.0,
    "saturation": 0.1,
    "jitter": "torchvision",
    "color_probability": 0.5,
    "crop_px": 24,
    "blur_from": 0.5,
    "blur_sigma": "per_axis",
    "blur_probability": 0.0,
    "blur_kernel": 3,
}


def test_ids_of_trials_of_the_first_release_do_not_change():
    assert AugmentSettings().identity() == FIRST
    assert AugmentSettings(color=0.4, blur=1).identity() == FIRST | {"color": 0.4, "blur": 1.0}


@given(st.sets(st.sampled_from([*OTHERS])))
def test_a_newer_setting_is_part_of_the_identity_where_it_is_used(names):
    used = {name: OTHERS[name] for name in names}
    settings = AugmentSettings(blur=1, **used)
    assert settings.identity() == FIRST | {"blur": 1.0} | used
    assert AugmentSettings.model_validate(settings.identity()) == settings
    assert AugmentSettings.model_validate(settings.stored()) == settings


def test_every_setting_is_tried():
    assert AugmentSettings.model_fields.keys() == FIRST.keys() | OTHERS.keys()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"orientations": "diagonal"}, "'none', 'horizontal', 'flips', 'rotations' or 'dihedral'"),
        ({"blur": 1, "blur_from": 1.5}, r"blur_from \(1.5\) is larger than blur \(1\)"),
        ({"blur_from": 1}, "larger than blur"),
        ({"blur_kernel": 4}, r"blur_kernel \(4\) must be odd"),
        ({"blur_probability": 1.1}, "less than or equal to 1"),
        ({"color_probability": -0.1}, "greater than or equal to 0"),
        ({"brightness": 1}, "less than or equal to 0.9"),
        ({"crop_px": 0}, "greater than or equal to 1"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings, message):
    with pytest.raises(ValidationError, match=message):
        AugmentSettings(**settings)


def test_a_crop_larger_than_a_tile_is_one_line():
    AugmentSettings(crop_px=32).check_crop(32)
    with pytest.raises(
        ConfigError, match=r"^augmentation\.crop_px: a crop of 33 px is larger than a tile of 32 px; [^\n]*$"
    ):
        AugmentSettings(crop_px=33).check_crop(32)


def test_the_report_reads_settings_without_torch():
    code = "import sys, tissuebench.datasets.loading.augment_settings; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
