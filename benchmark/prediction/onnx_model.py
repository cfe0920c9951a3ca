"""ONNX form of a trained method: uint8 images in, class probabilities out, and a check that both give the same labels.

The graph holds all that ``Method.predict`` does, so a gate or a teacher is part of it: scaling and normalisation of the
image, the networks, and the softmax.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from tissuebench.errors import ConfigError
from tissuebench.evaluation.stitching import Predicts
from tissuebench.methods.api.method import Method
from tissuebench.methods.networks import ImageEncoder

INPUT, OUTPUT = "images", "probabilities"
_LARGEST_PX = 4096
_MULTIPLE = 32
_PIXELS_PER_BATCH = 1 << 19


class OnnxModel:
    """A model file in onnxruntime on the CPU; predicts as a method does.

    Args:
        path: the ``model.onnx``.

    Raises:
        ConfigError: onnxruntime is not installed.

    Examples:
        >>> model = OnnxModel(Path("model/model.onnx"))
        >>> model.predict(torch.zeros(2, 3, 256, 256, dtype=torch.uint8)).shape
        torch.Size([2, 6, 256, 256])
    """

    def __init__(self, path: Path) -> None:
        require_onnx()
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        self._session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])

    def predict(self, images: Tensor) -> Tensor:
        """Return class probabilities (B, K, H, W) float32 of images (B, 3, H, W) uint8."""
        (probabilities,) = self._session.run([OUTPUT], {INPUT: images.cpu().contiguous().numpy()})
        return torch.from_numpy(probabilities).to(images.device)


def require_onnx() -> None:
    """Raise ``ConfigError`` unless the packages of the extra ``onnx`` are installed."""
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise ConfigError(f"--onnx: {error.name} is not installed; type: pip install 'tissuebench[onnx]'") from None


def write_onnx(method: Method[Any], tile_px: int, metadata: Mapping[str, str], path: Path) -> bool:
    """Write the method as one ONNX file and return whether images of other sizes than a tile fit, too.

    The number of images is free. Height and width are free multiples of 32 where the network allows it; otherwise both
    are ``tile_px``.

    Args:
        method: the method with its weights, on the CPU.
        tile_px: edge length of a tile.
        metadata: texts to store in the file, by name.
        path: file to write.

    Raises:
        ConfigError: the packages are missing, or the method does something that has no ONNX form.
    """
    require_onnx()
    is_free = _sizes_can_be_free(method, tile_px)
    program = _exported(method, tile_px, is_free)
    if program is None and is_free:
        is_free = False
        program = _exported(method, tile_px, is_free)
    if program is None:
        raise ConfigError(f"method {method.name!r} does something that has no ONNX form; leave out --onnx")
    program.model.metadata_props.update(metadata)
    program.save(str(path), external_data=False)
    return is_free


def share_of_differing_labels(
    ours: Predicts[Tensor], theirs: Predicts[Tensor], images: Sequence[NDArray[np.uint8]]
) -> tuple[float, float]:
    """Return the share of pixels with another most probable class, and the largest difference of a probability.

    Args:
        ours: a method, on the CPU.
        theirs: its ONNX form.
        images: tiles (3, H, W) uint8 of one size.
    """
    differing = pixels = 0
    largest = 0.0
    at_once = max(1, _PIXELS_PER_BATCH // images[0][0].size)
    for start in range(0, len(images), at_once):
        batch = torch.from_numpy(np.stack(images[start : start + at_once]))
        with torch.inference_mode():
            a, b = ours.predict(batch), theirs.predict(batch)
            differing += int((a.argmax(dim=1) != b.argmax(dim=1)).sum())
            pixels += a[:, 0].numel()
            largest = max(largest, float((a - b).abs().max()))
    return differing / pixels, largest


class _Predicting(nn.Module):
    """The prediction of a method as the forward pass of a module."""

    def __init__(self, method: Method[Any]) -> None:
        super().__init__()
        self.method = method

    def forward(self, images: Tensor) -> Tensor:
        """Return ``Method.predict``."""
        return self.method.predict(images)


def _exported(method: Method[Any], tile_px: int, is_free: bool) -> torch.onnx.ONNXProgram | None:
    """Return the traced method; None if torch cannot trace it with sizes that are free, or at all."""
    multiple = _multiple(method)
    dimensions: dict[int, Any] = {0: torch.export.Dim("n_images")}
    if is_free:
        cells = _LARGEST_PX // multiple
        dimensions[2] = multiple * torch.export.Dim("rows", min=1, max=cells)
        dimensions[3] = multiple * torch.export.Dim("columns", min=1, max=cells)
    # No dimension of the trace is 1 (nor one of the deepest map), which would be a constant, and no two are equal.
    size = (tile_px + multiple, tile_px + 2 * multiple) if is_free else (tile_px, tile_px)
    example = torch.zeros((2, 3, *size), dtype=torch.uint8)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        try:
            return torch.onnx.export(
                _Predicting(method).eval(),
                (example,),
                dynamo=True,
                dynamic_shapes=(dimensions,),
                input_names=[INPUT],
                output_names=[OUTPUT],
                verbose=False,
            )
        except Exception:  # a method may do anything, and torch raises as many kinds of errors
            return None


def _sizes_can_be_free(method: nn.Module, tile_px: int) -> bool:
    """Whether to try sizes that vary: images are not padded, and no layer computes its padding from their size.

    Layers of the latter kind, as in all TensorFlow ports, make the export take minutes and the graph as slow.
    """
    names = (type(module).__name__ for module in method.modules())
    return tile_px % _multiple(method) == 0 and not any(name.endswith("Same") for name in names)


def _multiple(method: nn.Module) -> int:
    """Return what the sides of images are padded to multiples of."""
    return max((module.multiple for module in method.modules() if isinstance(module, ImageEncoder)), default=_MULTIPLE)
