"""Settings of one stage in place of the plan's."""

from __future__ import annotations

from typing import Annotated, Any

import pytest
from pydantic import ValidationError

from tissuebench.common.own_settings import Own, in_place_of, inherited
from tissuebench.common.settings import Settings
from tissuebench.errors import ConfigError
from tissuebench.methods.api.training_settings import TrainingSettings

SGD = {"optimizer": "sgd", "momentum": 0.9, "rate_schedule": "polynomial"}


class Config(Settings):
    plain: Annotated[dict[str, Any], Own(TrainingSettings)] = inherited()
    published: Annotated[dict[str, Any], Own(TrainingSettings, epochs=100, batch_size=8, **SGD)] = inherited()


def test_what_is_not_set_is_a_default_or_inherited():
    assert Config().plain == {}
    assert Config().published == {"epochs": 100, "batch_size": 8, **SGD}
    shared = TrainingSettings(steps=7, weight_decay=0.5, selection_share=0.25)
    assert in_place_of(shared, Config().plain) == shared
    made = in_place_of(shared, Config().published)
    assert (made.epochs, made.batch_size, made.momentum) == (100, 8, 0.9)
    assert (made.weight_decay, made.selection_share) == (0.5, 0.25)
    assert made.resolved(17).steps == 300


def test_a_key_displaces_those_that_say_how_another_one_is_meant():
    assert Config(published={"steps": 5}).published == {"batch_size": 8, **SGD, "steps": 5}
    adam = Config(published={"optimizer": "adam"}).published
    assert adam == {"epochs": 100, "batch_size": 8, "rate_schedule": "polynomial", "optimizer": "adam"}
    shared = TrainingSettings(epochs=3, optimizer="sgd", momentum=0.9, nesterov=True)
    made = in_place_of(shared, {"steps": 9, "optimizer": "adam"})
    assert (made.steps, made.epochs, made.momentum, made.nesterov) == (9, None, 0.0, False)
    assert in_place_of(shared, {"learning_rate": 0.5}).momentum == 0.9


def test_values_are_those_of_json_so_that_stored_settings_are_read_again():
    config = Config(plain={"betas": (0.5, 0.9), "optimizer": "adam", "gradient_clip": None, "learning_rate": 1})
    assert config.plain == {"betas": [0.5, 0.9], "optimizer": "adam", "gradient_clip": None, "learning_rate": 1.0}
    assert Config.model_validate(config.stored()) == config
    assert in_place_of(TrainingSettings(), config.plain).gradient_clip is None


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"learning_rat": 1}, "did you mean 'learning_rate'"),
        ({"learning_rate": -1}, "learning_rate: Input should be greater than 0"),
        ({"optimizer": "adamm"}, "optimizer: Input should be 'adamw', 'adam' or 'sgd'"),
        ("fast", "dictionary"),
    ],
)
def test_a_wrong_key_or_value_is_named(given, says):
    with pytest.raises(ValidationError, match=says):
        Config(plain=given)


def test_what_contradicts_the_plan_is_one_line_that_says_where():
    with pytest.raises(ConfigError, match=r"^methods.mine.training: momentum has no effect with") as error:
        in_place_of(TrainingSettings(), {"momentum": 0.9}, "methods.mine.training")
    assert "\n" not in str(error.value)


class Renamed(Settings):
    pretraining: Annotated[
        dict[str, Any], Own(TrainingSettings, formerly={"steps": "pretrain_steps"}, steps=500, batch_size=16)
    ] = inherited()


def test_what_used_to_be_a_setting_by_itself_is_accepted_and_identified_as_before():
    assert Renamed(pretrain_steps=7) == Renamed(pretraining={"steps": 7})
    assert Renamed(pretrain_steps=7, pretraining={"batch_size": 4}).pretraining == {"batch_size": 4, "steps": 7}
    with pytest.raises(ValidationError, match=r"pretrain_steps is pretraining\.steps: give one of them"):
        Renamed(pretrain_steps=7, pretraining={"steps": 7})
    (mark,) = Renamed.model_fields["pretraining"].metadata
    assert mark.identity("pretraining", {"steps": 7}) == {"pretrain_steps": 7}
    assert mark.identity("pretraining", {"epochs": 2.0, "steps": 3}) == {
        "pretrain_steps": 3,
        "pretraining": {"epochs": 2.0},
    }
