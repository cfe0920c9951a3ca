"""Networks: pretrained encoders (timm) with decoders from segmentation-models-pytorch."""

from tissuebench.methods.networks.encoded import Encoded
from tissuebench.methods.networks.encoder import ImageEncoder, build_encoder
from tissuebench.methods.networks.segmenter import Segmenter, build_segmenter

__all__ = ["Encoded", "ImageEncoder", "Segmenter", "build_encoder", "build_segmenter"]
