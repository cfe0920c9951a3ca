"""Settings and streams of methods have types: at run time as in a type checker."""

from __future__ import annotations

import pickle

import pytest
import torch

from tissuebench.methods import api
from tissuebench.methods.api.contract import make_batch, make_method, make_task
from tissuebench.methods.multilayer_pseudo import PSEUDO
from tissuebench.methods.supervised import Supervised


class HalfSettings(api.Settings):
    weight: float = 0.5


class Half(api.Method[HalfSettings]):
    name = "half_in_a_test"
    summary = "not registered"
    consumes = frozenset({api.Supervision.MASKS})

    def streams(self):
        return {api.ANNOTATED: self.annotated_stream()}

    def training_step(self, batch, batch_idx):
        tiles = batch[api.ANNOTATED]
        return self.config.weight * api.masked_cross_entropy(self.network(tiles.inputs), tiles.masks)


class Nested(Half):
    class Config(HalfSettings):
        weight: float = 0.25


class Plain(api.Method):
    name = "plain_in_a_test"
    summary = "without brackets, with a class in the body"
    consumes = frozenset({api.Supervision.MASKS})

    class Config(api.Settings):
        share: float = 0.1

    streams, training_step = Half.streams, Half.training_step


def test_settings_are_the_type_in_brackets_or_the_class_in_the_body():
    assert Half.Config is HalfSettings
    assert Nested.Config().weight == 0.25
    assert Plain.Config().share == 0.1
    assert Supervised.Config is api.Settings
    assert Half(make_task(), HalfSettings()).config.weight == 0.5
    with pytest.raises(TypeError, match="Half needs HalfSettings, got Settings"):
        Half(make_task(), api.Settings())


@pytest.mark.parametrize(
    ("stream", "kind", "label"),
    [
        (api.Stream(api.Supervision.MASKS, 2), api.MaskBatch, "masks"),
        (api.Stream(api.Supervision.TAGS, 2), api.TagBatch, "tags"),
        (api.Stream(api.Supervision.DIAGNOSIS, 2), api.DiagnosisBatch, "excluded"),
        (api.Stream(api.Supervision.TAGS, 2, pseudo="x"), api.PseudoMaskBatch, "pseudo_masks"),
        (api.Stream(api.Supervision.NONE, 2), api.TileBatch, None),
    ],
)
def test_a_stream_gives_batches_that_cannot_lack_its_label(stream, kind, label):
    assert stream.batch_type is kind
    if label is None:
        assert kind(step=0).masks is None
        return
    with pytest.raises(TypeError, match=label):
        kind(step=0)
    value = torch.zeros(2, 3)
    assert getattr(kind(step=0, **{label: value}).to("cpu"), label) is not None


def test_batches_of_every_method_are_of_the_type_that_the_name_of_the_stream_promises():
    method = make_method("multilayer_pseudo")
    batch = make_batch(method)
    assert type(batch[PSEUDO]) is api.PseudoMaskBatch
    assert type(batch["pseudo"]) is api.PseudoMaskBatch  # the same key


def test_the_name_of_a_stream_is_a_string_that_keeps_its_type_on_the_way_to_another_process():
    name = pickle.loads(pickle.dumps(api.ANNOTATED))
    assert (name, name.batch_type) == ("annotated", api.MaskBatch)
    assert {api.ANNOTATED: 1}["annotated"] == 1


def test_pixels_are_images_and_absent_where_features_stand_in():
    images = torch.zeros(1, 3, 4, 4)
    assert api.TileBatch(step=0, images=images).pixels is images
    with pytest.raises(ValueError, match="wants_images"):
        _ = api.TileBatch(step=0, features=(images,)).pixels
