"""Scores of objects (glands, nuclei) from sums over the objects of an image, vectorised over every leading axis.

The sums take ids of objects. In a result, the objects of truth and prediction alike are the connected regions of a
class (``evaluation.objects``), as stores hold no instances, and the metrics are named for that: glands or nuclei that
touch are one region. A class map that is right in every pixel has 1 in all of them; against the single nuclei of DSB
2018 it would have an AJI of .44, so these are no numbers to set beside those of instance segmentation.

G_i are the true objects, S_j the predicted ones, |.| their area, S(G_i) the predicted object that overlaps G_i most,
G(S_j) the true one that overlaps S_j most:

    region_f1         2 f / (n_G + n_S)       f: true objects that the S_j with G(S_j) = G_i covers by half or more
    region_dice       1/2 [sum_i |G_i| Dice(G_i, S(G_i)) / sum_i |G_i| + sum_j |S_j| Dice(S_j, G(S_j)) / sum_j |S_j|]
    region_hausdorff  1/2 [sum_i |G_i| H(G_i, S(G_i)) / sum_i |G_i| + sum_j |S_j| H(S_j, G(S_j)) / sum_j |S_j|]
    region_aji        sum_i |G_i and S'(G_i)| / (sum_i |G_i or S'(G_i)| + sum of |S_j| that are no S'(G_i))

with S'(G_i) the predicted object of the largest IoU, and H the Hausdorff distance between all pixels of two objects.
The first three are the object F1, Dice and Hausdorff of the GlaS challenge (Sirinukunwattana et al., Med Image Anal
2017), the last is the aggregated Jaccard index of Kumar et al. (IEEE Trans Med Imaging 2017). An object that overlaps
none has Dice 0; its partner for the Hausdorff distance is the nearest by that distance, or the diagonal of the image
stands in where the other map is empty (the challenge has infinity, which no mean survives).

All are ratios of sums over objects, so sums of images add up: pooled scores weigh objects, and their areas, the same
whatever image they are in. The papers average AJI over images instead; ``results.frames.trials.slide_objects`` has the
sums of each. The "AJI" in the code of GenSelfDiff-HIS is another number: it takes class maps, whose one "object" is the
foreground, so it equals the IoU of the foreground.

A score is nan where the truth has no object.
"""

from __future__ import annotations

import numpy as np

from tissuebench.results.metrics import Floats, ratio

SUMS = (
    *("true", "predicted", "found", "true_area", "predicted_area", "true_dice", "predicted_dice"),
    *("true_hausdorff", "predicted_hausdorff", "intersection", "union"),
)
"""Last axis of the sums: numbers of objects; areas in pixels; Dice and distance times area; both areas of the AJI."""

OBJECT_METRICS = ("region_dice", "region_f1", "region_aji")
"""Metrics between 0 and 1 of each class, in the order of ``object_scores``."""


def object_scores(sums: Floats) -> Floats:
    """Return Dice, F1 and AJI, (..., 3), from sums (..., len(SUMS)).

    Examples:
        >>> object_scores(np.array([2, 1, 1, 30, 20, 16, 16, 0, 0, 16, 34], dtype=float)).round(3)
        array([0.667, 0.667, 0.471])
    """
    of = {name: sums[..., i] for i, name in enumerate(SUMS)}
    dice = (
        ratio(of["true_dice"], of["true_area"]) + np.nan_to_num(ratio(of["predicted_dice"], of["predicted_area"]))
    ) / 2
    f1 = ratio(2 * of["found"], of["true"] + of["predicted"])
    scores = np.stack([dice, f1, ratio(of["intersection"], of["union"])], -1)
    return np.where(of["true"][..., None] > 0, scores, np.nan)


def object_hausdorff(sums: Floats) -> Floats:
    """Return the mean Hausdorff distance, (...), in the unit of the sums; lower is better."""
    of = {name: sums[..., i] for i, name in enumerate(SUMS)}
    of_true = ratio(of["true_hausdorff"], of["true_area"])
    of_predicted = ratio(of["predicted_hausdorff"], of["predicted_area"])
    return np.where(np.isnan(of_predicted), of_true, (of_true + of_predicted) / 2)


def object_shares(sums: Floats) -> Floats:
    """Return what each patient has of the truth behind ``object_scores``, (..., 3): area, number, area of objects."""
    return sums[..., [SUMS.index(name) for name in ("true_area", "true", "true_area")]]
