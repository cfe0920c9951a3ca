"""Methods of another package: one with two stages before its last, and some that behave badly."""

from __future__ import annotations

import os
import signal
import time

import torch
from pydantic import Field
from torch import nn
from torch.nn import functional

from tissuebench.methods.api import (
    ANNOTATED,
    IGNORE_LABEL,
    Method,
    Settings,
    Stage,
    Stream,
    Supervision,
    Trainable,
    build_segmenter,
    masked_cross_entropy,
)
from tissuebench.methods.supervised import Supervised

PRETRAIN, CAM = "pretrain_of_a_test", "cam_of_a_test"


class PretrainSettings(Settings):
    noise: float = Field(0.1, ge=0)


class Denoising(Trainable[PretrainSettings]):
    """Label-free: a small head predicts the mean colour of each tile from noisy features."""

    @classmethod
    def wants_images(cls, config):
        return True

    def __init__(self, task, config):
        super().__init__(task, config)
        self.network = build_segmenter(task.network, len(task.class_map), task.tile_px)
        self.head = nn.Conv2d(len(task.class_map), 3, 1)

    def streams(self):
        return {"any": Stream(Supervision.NONE, self.task.training.batch_size)}

    def training_step(self, batch, batch_idx):
        images = batch["any"].images
        noisy = (images + self.config.noise * torch.randn_like(images)).clamp(0, 1)
        return functional.mse_loss(self.head(self.network(noisy)), images)


class Classifier(Trainable[Settings]):
    """From tags: class scores of a tile, and from them two layers of pseudo-masks."""

    def __init__(self, task, config):
        super().__init__(task, config)
        self.network = build_segmenter(task.network, len(task.class_map), task.tile_px)

    def inherit(self, weights):
        state = {k.removeprefix("network."): v for k, v in weights[PRETRAIN].items() if k.startswith("network.")}
        self.network.load_state_dict(state)

    def streams(self):
        return {"tagged": Stream(Supervision.TAGS, self.task.training.batch_size)}

    def training_step(self, batch, batch_idx):
        tagged = batch["tagged"]
        scores = self.network(tagged.inputs).mean(dim=(2, 3))
        return functional.binary_cross_entropy_with_logits(scores, tagged.tags.float())

    def annotate(self, batch):
        with torch.no_grad():
            scores = self.network(batch.inputs).masked_fill(~batch.tags[:, :, None, None], -torch.inf)
        sure = scores.max(dim=1).indices.to(torch.uint8)
        unsure = sure.masked_fill(scores.softmax(dim=1).max(dim=1).values < 0.5, IGNORE_LABEL)
        return torch.stack([sure, unsure], dim=1)


class StagedSettings(Settings):
    pretrain_steps: int = Field(4, ge=1)
    cam_steps: int = Field(3, ge=1)
    noise: float = Field(0.1, ge=0)
    weight: float = Field(0.5, ge=0)


class Staged(Method[StagedSettings]):
    """Pretrain without labels, annotate from tags, then train on masks and pseudo-masks."""

    name = "staged"
    summary = "a method of a test with a label-free stage and one that annotates"
    consumes = frozenset({Supervision.MASKS, Supervision.TAGS})

    @classmethod
    def stages(cls, config, training):
        pretrain = training.model_copy(update={"steps": config.pretrain_steps})
        cam = training.model_copy(update={"steps": config.cam_steps})
        return (
            Stage(PRETRAIN, Denoising, PretrainSettings(noise=config.noise), pretrain),
            Stage(
                CAM, Classifier, Settings(), cam, frozenset({Supervision.TAGS}), needs=(PRETRAIN,), annotates="tagged"
            ),
        )

    def inherit(self, weights):
        assert set(weights) == {PRETRAIN, CAM}
        state = {k.removeprefix("network."): v for k, v in weights[PRETRAIN].items() if k.startswith("network.")}
        self.network.load_state_dict(state)

    def streams(self):
        return {
            ANNOTATED: self.annotated_stream(),
            "pseudo": Stream(Supervision.NONE, self.task.training.batch_size, pseudo=CAM),
        }

    def training_step(self, batch, batch_idx):
        pseudo = batch["pseudo"]
        assert pseudo.pseudo_masks.shape[1] == 2
        loss = masked_cross_entropy(self.network(batch[ANNOTATED].inputs), batch[ANNOTATED].masks)
        weak = masked_cross_entropy(self.network(pseudo.inputs), pseudo.pseudo_masks[:, 1])
        return loss + self.config.weight * weak


class _Naughty(Supervised):
    summary = "for a test"
    controls = ()

    def training_step(self, batch, batch_idx):
        if self.trainer.global_step == 3:
            self.misbehave()
        return super().training_step(batch, batch_idx)

    def misbehave(self):
        raise NotImplementedError


class Raising(_Naughty):
    name = "raising"

    def misbehave(self):
        raise RuntimeError("no more\nof this")


class NotANumber(_Naughty):
    name = "not_a_number"

    def training_step(self, batch, batch_idx):
        return super(_Naughty, self).training_step(batch, batch_idx) * float("nan")


class Leaking(_Naughty):
    name = "leaking"

    def misbehave(self):
        kept = []
        while True:  # 100 MB at a time, a tenth of a second apart
            kept.append(torch.ones(25_000_000))
            time.sleep(0.1)


class Sleeping(_Naughty):
    name = "sleeping"

    def misbehave(self):
        time.sleep(100_000)


class Writing(Supervised):
    """Its state is larger than a small disk."""

    name = "writing"
    summary = "for a test"
    controls = ()

    def __init__(self, task, config):
        super().__init__(task, config)
        self.register_buffer("large", torch.zeros(30_000_000))  # 120 MB


class Untidy(Supervised):
    """Leaves the process in a state that would change the next task."""

    name = "untidy"
    summary = "for a test"
    controls = ()

    def training_step(self, batch, batch_idx):
        torch.set_num_threads(2)
        torch.set_grad_enabled(True)
        os.chdir("/")
        return super().training_step(batch, batch_idx)


class Dying(_Naughty):
    name = "dying"

    def misbehave(self):
        os.kill(os.getpid(), signal.SIGKILL)


class BadStart(Supervised):
    name = "bad_start"
    summary = "for a test"
    controls = ()

    @classmethod
    def stages(cls, config, training):
        return (Stage("failing_of_a_test", FailingStage, PretrainSettings(), training),)

    def inherit(self, weights):
        pass


class FailingStage(Denoising):
    def __init__(self, task, config):
        raise RuntimeError("this stage cannot begin")


class Talkative(Supervised):
    """Logs three numbers: the loss and the number of the step each time, and one at every fortieth step only."""

    name = "talkative"
    summary = "for a test"
    controls = ()

    def training_step(self, batch, batch_idx):
        loss = super().training_step(batch, batch_idx)
        step = self.trainer.global_step + 1
        self.log("loss/contrast", loss)
        self.log("counted", float(step))
        if step % 40 == 0:
            self.log("now_and_then", torch.tensor(step))
        return loss
