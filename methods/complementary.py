"""Complementary labels from the diagnosis (Haegele et al., arXiv 2302.01813; Sci. Rep. 14, 24988, 2024).

A case of tumour A has no pixel of tumour B. Two streams train one network: annotated tiles with cross-entropy, and
tiles of every diagnosed case with a loss on the classes that the diagnosis rules out:

    L = CE(annotated) + weight * ramp(step) * L_comp(diagnosed)

The paper's loss is ``form: forward_corrected``; choices that its main text leaves open (transition matrix, weight,
sampling) are made here and named in the settings.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum

import torch
from pydantic import Field
from torch import Tensor

from tissuebench.datasets.weak_labels import excluded_classes
from tissuebench.methods.api import (
    ANNOTATED,
    DiagnosisBatch,
    Method,
    Settings,
    Stream,
    StreamName,
    Supervision,
    Task,
    TrainingBatch,
    forward_together,
    masked_cross_entropy,
    register,
)
from tissuebench.methods.api.training_settings import Sampling
from tissuebench.methods.losses.complementary import (
    conditional_set_wise,
    forward_corrected,
    pooled_mean,
    set_wise,
)
from tissuebench.methods.losses.observation import observation_probabilities

DIAGNOSED = StreamName("diagnosed", DiagnosisBatch)


class Form(StrEnum):
    """Form of the complementary loss.

    ``conditional``: set-wise exclusion among the diagnosis-dependent classes (this project's). ``set_wise``: exclusion
    among all classes. ``forward_corrected``: the published loss.
    """

    CONDITIONAL = "conditional"
    SET_WISE = "set_wise"
    FORWARD_CORRECTED = "forward_corrected"


class ComplementarySettings(Settings):
    """Settings of the complementary loss.

    Attributes:
        form: ``conditional`` (this project's), ``set_wise``, or ``forward_corrected`` (the published loss).
        gamma: focal exponent; 2 in the published code.
        weight: weight of the complementary loss.
        ramp: share of the steps over which ``weight`` grows linearly from 0, since the probabilities of an untrained
            network are not yet informative.
        balanced: draw the excluded class, then a case, then a tile, so that large cases do not dominate.
        max_excluded: keep at most this many of a case's excluded classes, drawn once per case (an ablation of how
            informative the diagnosis is; with all but one excluded it names the class); null keeps all.
        official_clip: clip probabilities as the published code does (``forward_corrected`` only).
    """

    form: Form = Form.CONDITIONAL
    gamma: float = Field(2.0, ge=0)
    weight: float = Field(1.0, ge=0)
    ramp: float = Field(0.3, ge=0, le=1)
    balanced: bool = True
    max_excluded: int | None = Field(None, ge=1)
    official_clip: bool = False


@register
class Complementary(Method[ComplementarySettings]):
    """Cross-entropy on the budget's masks, and exclusion of the classes that each case's diagnosis rules out."""

    name = "complementary"
    summary = "masks of the budget + classes excluded by each case's diagnosis (Haegele et al.)"
    consumes = frozenset({Supervision.MASKS, Supervision.DIAGNOSIS})
    half_precision = True  # exclusion is evaluated in float32, and exact at any logit

    def __init__(self, task: Task, config: ComplementarySettings) -> None:
        super().__init__(task, config)
        self._dependent = torch.tensor(task.class_map.dependent)  # on the CPU, as the sets of each batch
        # Shuffled and uniform streams have no groups of equal weight.
        self._balanced = config.balanced and task.training.sampling is Sampling.BALANCED
        sets = [excluded_classes([name], task.class_map).tolist() for name in task.class_map.diagnoses]
        self._of_diagnoses = torch.tensor(sets, dtype=torch.bool)

    def streams(self) -> Mapping[str, Stream]:
        """Return annotated tiles, and equally many tiles of diagnosed cases (which include the annotated cases)."""
        diagnosed = Stream(
            Supervision.DIAGNOSIS,
            self.task.training.batch_size,
            balanced=self.config.balanced,
            max_excluded=self.config.max_excluded,
        )
        return {ANNOTATED: self.annotated_stream(), DIAGNOSED: diagnosed}

    def training_step(self, batch: TrainingBatch, batch_idx: int) -> Tensor:
        """Return the sum of both losses; with weight 0 the step equals that of ``supervised``, bit for bit."""
        annotated, diagnosed = batch[ANNOTATED], batch[DIAGNOSED]
        weight = self.config.weight * min(1.0, self.progress / self.config.ramp if self.config.ramp else 1.0)
        streams = (annotated, diagnosed) if weight else (annotated,)
        logits = forward_together(self.network, *streams)
        loss = masked_cross_entropy(logits[0], annotated.masks)
        self.log("loss/masks", loss)
        if weight == 0:
            return loss
        complementary = self.complementary_loss(logits[1], diagnosed.excluded_sets)
        self.log("loss/complementary", complementary)
        return loss + weight * complementary

    def complementary_loss(self, logits: Tensor, excluded: Tensor) -> Tensor:
        """Return the chosen loss averaged over the pixels of samples with an informative diagnosis.

        Args:
            logits: (B, K, H, W).
            excluded: (B, K) bool on the CPU; samples that exclude no class or all classes are not counted.
        """
        config = self.config
        informative = excluded.any(dim=1) & ~excluded.all(dim=1)
        excluded = excluded & informative[:, None]
        if config.form is Form.CONDITIONAL:
            loss = conditional_set_wise(logits, excluded, self._dependent, config.gamma)
        elif config.form is Form.SET_WISE:
            loss = set_wise(logits, excluded, config.gamma)
        else:
            observation = observation_probabilities(excluded, self._of_diagnoses, self._balanced, config.max_excluded)
            loss = forward_corrected(logits, observation, config.gamma, config.official_clip)
        informative = informative.to(loss.device, non_blocking=True)
        return pooled_mean(loss, informative[:, None, None].expand_as(loss))


@register
class PublishedComplementary(Complementary):
    """The published loss. Network, optimiser, augmentation, sampling and weights are not in the published code.

    The paper's code is one loss function, so everything else is what the plan shares, and a result of this variant is
    one of the loss, not of the authors' whole training.
    """

    class Config(ComplementarySettings):
        """Settings of the published loss function; the others are not stated in the code and as neutral as can be."""

        form: Form = Form.FORWARD_CORRECTED  # the published loss function
        gamma: float = Field(2.0, ge=0)  # the same
        official_clip: bool = True  # the same: epsilon 1e-5
        weight: float = Field(1.0, ge=0)  # not stated
        ramp: float = Field(0.0, ge=0, le=1)  # not stated
        balanced: bool = True  # not stated

    name = "complementary_published"
    summary = "the same with the published loss: forward correction, gamma 2, clipped (Haegele et al.)"
