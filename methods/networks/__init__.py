"""Networks: pretrained encoders (timm) under decoders of segmentation-models-pytorch."""

from tissuebench.methods.networks.segmenter import Segmenter, build_segmenter

__all__ = ["Segmenter", "build_segmenter"]
