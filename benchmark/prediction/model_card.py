"""Model card of an exported model: Markdown for whoever gets the folder without knowing the benchmark."""

from __future__ import annotations

import inspect
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tissuebench.methods.api.registry import find_method
from tissuebench.methods.networks.encoder_catalogue import CATALOGUE
from tissuebench.methods.networks.settings import Weights
from tissuebench.plans.trial import Trial
from tissuebench.prediction.load_method import Trained
from tissuebench.results.metrics import lower_is_better
from tissuebench.results.records.trial_result import TrialResult, part_of
from tissuebench.results.stats.intervals import score_interval
from tissuebench.results.tables.panel import panels
from tissuebench.sweep.view.report_subjects import facts_of_data

_NOT_IN_THE_CARD = ("iou/", "precision/", "recall/", "specificity/")  # Dice says it of each class
_PARTS = {"test": "test", "val": "validation"}
_SNIPPET = """\
import numpy as np, onnxruntime
from PIL import Image
session = onnxruntime.InferenceSession("model.onnx")
image = np.asarray(Image.open("tile.png").convert("RGB"))  # {size}
batch = np.ascontiguousarray(image.transpose(2, 0, 1)[None])  # (1, 3, H, W) uint8
(probabilities,) = session.run(None, {{"images": batch}})  # (1, {n}, H, W) float32
labels = probabilities[0].argmax(axis=0).astype(np.uint8)  # values of the table below
Image.fromarray(labels).save("labels.png")
"""


@dataclass(frozen=True, slots=True)
class OnnxFacts:
    """Facts about an ONNX graph.

    Attributes:
        is_free: whether height and width may be any multiple of 32, rather than those of a tile.
        differing: share of pixels whose label differs from the method's.
        largest: largest difference of a probability.
        n_tiles: number of tiles compared.
    """

    is_free: bool
    differing: float
    largest: float
    n_tiles: int


def model_card(trained: Trained, result: TrialResult, onnx: OnnxFacts | None) -> str:
    """Return the card.

    Args:
        trained: the trial.
        result: its stored result.
        onnx: facts about the ONNX graph beside it, if there is one.

    Raises:
        DataError: the manifest of the dataset's store is damaged.
    """
    trial, info = trained.trial, trained.store.info
    data = facts_of_data(trained.found.home, result)
    method = find_method(trial.method)
    unknown = "the pixels of the source, whose resolution is not published"
    resolution = unknown if info.mpp is None else f"{info.mpp:g} µm per pixel"
    size = f"{info.tile_px} x {info.tile_px} px"
    lines = [
        f"# {_text(trial.arm)} on {_text(trial.dataset)}",
        "",
        f"Semantic segmentation of H&E-stained tissue, trained by TissueBench on {_text(trial.budget.spec)}.",
        "",
        "| | |",
        "|---|---|",
        *_rows(
            {
                "method": f"{trial.method}: {method.summary}",
                "settings": trial.arm,
                "described as": _source_of(method),
                "dataset": f"{data.get('title', trial.dataset)} ({trial.dataset})",
                "source": data.get("source", "not stated"),
                "licence of the data": data["licence"],
                "labels": trial.budget.spec + ("" if trial.budget.everything else f", draw {trial.budget.replicate}"),
                "minutes of annotation": f"{trial.minutes:.0f} (assumed, not measured)",
                "network": f"{trial.network.encoder}, {trial.network.decoder} decoder, {_initial_weights(trial)}",
                "training": f"{trial.training.steps} steps, batch size {trial.training.batch_size}, seed {trial.seed}",
                "trial": trained.key,
                "weights (sha256 of the checkpoint)": trained.weights_sha256,
            }
        ),
        "",
        "## Use",
        "",
        f"Input: RGB images as uint8, (B, 3, H, W), tiles of {size} at {resolution}. "
        + ("Height and width may be any multiple of 32 px. " if onnx and onnx.is_free else "")
        + "The scaling and normalisation of the network are part of the model: pass plain pixels.",
        "",
        f"Preprocessing: {'keep' if info.mpp is None else 'resample the slide to'} {resolution}"
        + (f", and normalise its stain by {info.stain} to the reference of the dataset" if info.stain != "none" else "")
        + ". Whole slides: predict overlapping tiles and blend them, as `tissuebench predict` does.",
        "",
        f"Output: class probabilities, (B, {len(trained.store.class_map)}, H, W) float32.",
        "",
    ]
    if onnx is not None:
        lines += ["```python", *_SNIPPET.format(size=size, n=len(trained.store.class_map)).splitlines(), "```", ""]
        lines += [
            f"Checked in onnxruntime on {onnx.n_tiles} tiles of the dataset: {onnx.differing:.4%} of the pixels have "
            f"another label than in PyTorch (float32), and no probability differs by more than {onnx.largest:.1g}.",
            "",
        ]
    lines += [
        "`model.safetensors` holds the weights of the method under TissueBench's names: "
        f"`find_method({trial.method!r})(task, config).load_state_dict(safetensors.torch.load_file(...))`.",
        "",
        "## Classes",
        "",
        "| value | class | colour |",
        "|---|---|---|",
        *(
            f"| {value} | {_text(name)} | `#{red:02x}{green:02x}{blue:02x}` |"
            for value, (name, (red, green, blue)) in enumerate(
                zip(trained.store.class_map.names, trained.store.class_map.colors, strict=True)
            )
        ),
        "",
        "## Scores",
        "",
        *_scores(result),
        "",
        "## Limits",
        "",
        "- For research. Not a medical device, and not validated for diagnosis.",
        "- Slides of other scanners, stains, organs or resolutions may give worse results without notice.",
        "- Every pixel gets one of the classes above, also tissue of a kind that is not among them, and glass.",
        "- The weights derive from the data above"
        + _derived_from(trial)
        + ": their licences bind the use of the model.",
        "",
    ]
    return "\n".join(lines)


def _initial_weights(trial: Trial) -> str:
    """Return what the encoder started from: by hash, as a path means nothing elsewhere."""
    if trial.weights_sha256 is None:
        return f"initial weights: {trial.network.weights}"
    source = trial.network.weights if trial.network.weights in set(Weights) else "a file"
    return f"initial weights: {source}, sha256 {trial.weights_sha256}"


def _derived_from(trial: Trial) -> str:
    """Return what the weights derive from besides the data, with the licence where the suite knows it."""
    if trial.network.weights == Weights.NONE:
        return ""
    entry = CATALOGUE.get(trial.network.encoder)
    return " and from pretrained weights" + (f" ({entry.title}: {entry.licence})" if entry else "")


def _scores(result: TrialResult) -> list[str]:
    """Return the table of scores on the part of the split that was scored."""
    (panel,) = panels([result])
    (cell,) = panel.cells.values()
    found = score_interval(cell)
    part = _PARTS.get(part_of(result.identity), "test")
    lines = [
        f"On the {part} part: {panel.n_pixel_patients} patients with annotated pixels. 95 % intervals cover other "
        "patients, not other draws of the labels or other seeds: this is a single training.",
        "",
        "| metric | score | 95 % interval |",
        "|---|---|---|",
    ]
    scores = zip(panel.metrics, found.mean.tolist(), found.low.tolist(), found.high.tolist(), strict=True)
    for metric, mean, low, high in scores:
        if not math.isnan(mean) and not metric.startswith(_NOT_IN_THE_CARD):
            name = _text(metric) + (" (lower is better)" if lower_is_better(metric) else "")
            lines.append(f"| {name} | {mean:.3f} | {low:.3f} to {high:.3f} |")
    if np.isnan(found.mean).any():
        lines += ["", "Classes that no annotated patient of this part has are left out."]
    return lines


def _source_of(method: type[object]) -> str:
    """Return the first paragraph of the docstring of the method's module, which names the paper."""
    module = sys.modules[method.__module__]
    return " ".join((inspect.getdoc(module) or "").split("\n\n")[0].split()) or "not stated"


def _rows(facts: dict[str, object]) -> Sequence[str]:
    return [f"| {name} | {_text(str(value))} |" for name, value in facts.items()]


def _text(text: str) -> str:
    """Return text from data as one line that Markdown and HTML show as it is."""
    line = " ".join(text.split())
    for character, escaped in (("&", "&amp;"), ("<", "&lt;"), ("|", "\\|"), ("[", "\\["), ("]", "\\]"), ("`", "\\`")):
        line = line.replace(character, escaped)
    return line.replace("*", "\\*").replace("_", "\\_")
