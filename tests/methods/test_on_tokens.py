"""Every method on the tokens of a vision transformer: fine-tuned, frozen with cached features, adapted."""

from __future__ import annotations

from dataclasses import replace

import pytest
import timm
import torch

from tissuebench.methods.api import TrainingBatch, all_methods
from tissuebench.methods.api.contract import CLASS_MAP, make_batch, make_task, training_loss
from tissuebench.methods.api.registry import find_method
from tissuebench.methods.networks.settings import Decoder, EncoderMode, NetworkSettings
from tissuebench.methods.pseudo_labels.tag_classifier import MapSource
from tissuebench.methods.pseudo_labels.tag_stages import ClassifierSettings, TagClassification

ENCODER = "vit_tiny_patch16_224"
OURS = sorted(name for name, kind in all_methods().items() if kind.__module__.startswith("tissuebench."))


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    path = tmp_path_factory.mktemp("encoder") / "weights.pt"
    torch.manual_seed(0)
    torch.save(timm.create_model(ENCODER, num_classes=0).state_dict(), path)
    return str(path)


def task_on_tokens(weights: str, mode: EncoderMode, tile_px: int = 64, decoder: Decoder = Decoder.FPN):
    network = NetworkSettings(
        encoder=ENCODER, weights=weights, encoder_mode=mode, decoder=decoder, decoder_channels=32, lora_rank=2
    )
    return replace(make_task(), network=network, tile_px=tile_px)


@pytest.mark.parametrize("mode", list(EncoderMode))
@pytest.mark.parametrize("name", OURS)
def test_a_step_trains_it_and_it_predicts(name, mode, weights):
    """The last stage and those before it: finite loss, a gradient wherever something is trained, probabilities."""
    kind = find_method(name)
    config = kind.Config()
    task = task_on_tokens(weights, mode)
    torch.manual_seed(0)
    method = kind(task, config)
    batch = make_batch(method)
    if mode is EncoderMode.FROZEN and not kind.wants_images(config):
        with torch.no_grad():
            batch = TrainingBatch(
                (stream, replace(tiles, images=None, features=method.network.encode(tiles.pixels)))
                for stream, tiles in batch.items()
            )
    loss = training_loss(method, batch)
    assert loss.isfinite()
    loss.backward()
    trained = [each for each in method.network.parameters() if each.requires_grad]
    assert any(each.grad is not None and each.grad.any() for each in trained)
    with torch.inference_mode():
        probabilities = method.eval().predict(torch.randint(0, 256, (1, 3, 64, 50), dtype=torch.uint8))
    assert probabilities.shape == (1, len(CLASS_MAP), 64, 50)
    for stage in kind.stages(config, task.training):
        module = stage.module(replace(task, training=stage.training), stage.config)
        if stage.needs:
            continue  # begins with what it inherits
        tiles = TrainingBatch(
            (stream, replace(each, images=each.images.float() / 255)) for stream, each in make_batch(module).items()
        )
        module.train()
        loss = module.training_step(tiles, 0)
        assert loss.isfinite(), stage.name


@pytest.mark.parametrize("mode", list(EncoderMode))
@pytest.mark.parametrize("maps", list(MapSource))
def test_class_activation_maps_of_tokens_become_pseudo_masks(maps, mode, weights):
    """Three depths, each with a map that is not constant; tiles that are no multiple of the patch."""
    task = task_on_tokens(weights, mode)
    torch.manual_seed(0)
    stage = TagClassification(task, ClassifierSettings(maps=maps, doubt=False))
    batch = make_batch(stage)
    stage.training_step(batch, 0).backward()
    tiles = batch[stage.stream]
    stage.eval()
    layers = stage.annotate(tiles)
    assert layers.shape == (len(tiles.tags), 3, 64, 64)
    cams = stage.classifier.activation_maps(tiles.pixels, (64, 64))
    assert cams.isfinite().all()
    assert (cams.amax(dim=(3, 4)) > cams.amin(dim=(3, 4))).any(dim=2).all()
