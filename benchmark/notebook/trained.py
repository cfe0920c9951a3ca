"""Trained methods for notebooks: segmentation of images in memory."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from tissuebench.common.home import existing_home
from tissuebench.datasets.readers import ArrayReader, Slide
from tissuebench.errors import DataError
from tissuebench.notebook.pictures import Labelled
from tissuebench.prediction.load_method import Trained, find_trained
from tissuebench.prediction.options import PredictionOptions
from tissuebench.prediction.predict import Predictor


def load_method(trial_id: str, *, home: Path | str | None = None) -> TrainedMethod:
    """Load the method of a finished trial.

    Args:
        trial_id: id of the trial, or its first characters.
        home: folder that holds ``data/`` and ``runs/``; by default ``$TISSUEBENCH_HOME``, else the current folder.

    Raises:
        ConfigError: no such home folder or trial, several, or it has not finished.
        DataError: its files, or the store that it was trained on, are missing or have changed.

    Examples:
        >>> method = load_method("3f9a")
        >>> segmented = method.predict(image)
        >>> segmented.labels.shape == image.shape[:2]
        True
    """
    return TrainedMethod(Predictor(find_trained(existing_home(home), trial_id), PredictionOptions()))


@dataclass(frozen=True, eq=False, repr=False)
class Segmentation(Labelled):
    """A segmented image, which shows itself beside its labels.

    Attributes:
        confidence: (H, W) float32, probability of the predicted class, 0 to 1.
        probabilities: (K, H, W) float32, or None unless they were asked for.
    """

    confidence: NDArray[np.float32]
    probabilities: NDArray[np.float32] | None

    @property
    def shares(self) -> pd.Series:
        """Share of the image that each class covers, by name."""
        counts = np.bincount(self.labels.ravel(), minlength=len(self.class_map))
        return pd.Series(counts / self.labels.size, index=list(self.class_map.names), name="share")


class TrainedMethod:
    """The method of a finished trial, with its weights."""

    def __init__(self, predictor: Predictor) -> None:
        self._predictor = predictor

    @property
    def trained(self) -> Trained:
        """The trial and its settings."""
        return self._predictor.trained

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes, in the order of the label values."""
        return self.trained.store.class_map.names

    @property
    def mpp(self) -> float | None:
        """Micrometres per pixel of the training; None if unknown."""
        return self.trained.store.info.mpp

    def predict(
        self, image: NDArray[np.uint8], *, mpp: float | None = None, probabilities: bool = False
    ) -> Segmentation:
        """Segment an image as ``tissuebench predict`` segments a slide: same windows, blending and stain.

        Args:
            image: (H, W, 3) uint8 RGB, brightfield; H, W >= 1.
            mpp: its micrometres per pixel, by default those of the training. An image of others is resized to them,
                and so is the result.
            probabilities: whether to keep those of all K classes, 4 K bytes per pixel.

        Raises:
            DataError: the image is not of this kind; ``mpp`` is given but the training does not know its own; the stain
                cannot be normalised.
        """
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
            raise DataError(f"image: (H, W, 3) uint8 RGB is needed, got {image.shape} {image.dtype}")
        if mpp is not None and self.mpp is None:
            raise DataError("mpp: the resolution of the training is unknown; resize the image and leave mpp out")
        if mpp is not None and not 0 < mpp < math.inf:
            raise DataError(f"mpp {mpp}: micrometres per pixel are above 0")
        store = self.trained.store
        with Slide(Path("image"), ArrayReader(image), self.mpp, self.mpp if mpp is None else mpp) as slide:
            height, width = slide.height, slide.width
            read = self._predictor.reading(slide)
            labels, confidence = np.empty((height, width), np.uint8), np.empty((height, width), np.float32)
            kept = np.empty((len(store.class_map), height, width), np.float32) if probabilities else None
            for strip in self._predictor.strips(read, height, width):
                rows, columns = strip.classes.shape
                place = np.s_[strip.y : strip.y + rows, strip.x : strip.x + columns]
                labels[place], confidence[place] = strip.classes, strip.confidence
                if kept is not None:
                    kept[(slice(None), *place)] = strip.probabilities.cpu().numpy()
            pixels = slide.region(0, 0, height, width)
        return Segmentation(f"segmented by {self}", pixels, labels, store.class_map, confidence, kept)

    def __repr__(self) -> str:
        return f"{self.trained.trial.label} on {self.trained.trial.dataset}"
