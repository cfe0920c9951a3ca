"""ResNet-38 (Wu, Shen & van den Hengel, Pattern Recognition 90, 2019): wide, pre-activation, dilated to stride 8.

The variant without the last two resolutions ("A1") that weakly supervised segmentation commonly starts from, including
Han et al. (Med. Image Anal. 80, 102487, 2022). Layers have the names of the published PyTorch weights
(``resnet38_weights``); the classifier on top is not included.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


class WideUnit(nn.Module):
    """Residual unit of two 3x3 convolutions, each after norm and ReLU; 1x1 shortcut convolution if the shape changes.

    Args:
        n_in: input channels.
        n_mid: channels between the convolutions.
        n_out: output channels.
        stride: stride of the first convolution.
        dilation: dilation of the second convolution, and of the first unless ``first_dilation`` is given.
        first_dilation: dilation of the first convolution.
    """

    def __init__(
        self, n_in: int, n_mid: int, n_out: int, stride: int = 1, dilation: int = 1, first_dilation: int | None = None
    ) -> None:
        super().__init__()
        first = first_dilation or dilation
        self.bn_branch2a = nn.BatchNorm2d(n_in)
        self.conv_branch2a = nn.Conv2d(n_in, n_mid, 3, stride, padding=first, dilation=first, bias=False)
        self.bn_branch2b1 = nn.BatchNorm2d(n_mid)
        self.conv_branch2b1 = nn.Conv2d(n_mid, n_out, 3, padding=dilation, dilation=dilation, bias=False)
        same = n_in == n_out and stride == 1
        self.conv_branch1 = None if same else nn.Conv2d(n_in, n_out, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return a map (B, n_out, h, w): the plain sum, before the next unit's norm and ReLU."""
        active = self.bn_branch2a(x).relu_()
        shortcut = x if self.conv_branch1 is None else self.conv_branch1(active)
        residual = self.bn_branch2b1(self.conv_branch2a(active)).relu_()
        total: Tensor = shortcut + self.conv_branch2b1(residual)
        return total


class BottleneckUnit(nn.Module):
    """Bottleneck of 1x1, dilated 3x3 and 1x1 convolutions to a quarter, half and all channels, with channel dropout.

    Args:
        n_in: input channels.
        n_out: output channels; the shortcut is always a 1x1 convolution.
        dilation: dilation of the 3x3 convolution.
        dropout: dropout rate before the second and the third convolution.
    """

    def __init__(self, n_in: int, n_out: int, dilation: int, dropout: float) -> None:
        super().__init__()
        quarter, half = n_out // 4, n_out // 2
        self.bn_branch2a = nn.BatchNorm2d(n_in)
        self.conv_branch2a = nn.Conv2d(n_in, quarter, 1, bias=False)
        self.bn_branch2b1 = nn.BatchNorm2d(quarter)
        self.conv_branch2b1 = nn.Conv2d(quarter, half, 3, padding=dilation, dilation=dilation, bias=False)
        self.bn_branch2b2 = nn.BatchNorm2d(half)
        self.conv_branch2b2 = nn.Conv2d(half, n_out, 1, bias=False)
        self.conv_branch1 = nn.Conv2d(n_in, n_out, 1, bias=False)
        self.dropout = nn.Dropout2d(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """Return a map (B, n_out, h, w), the plain sum."""
        active = self.bn_branch2a(x).relu_()
        residual = self.bn_branch2b1(self.conv_branch2a(active)).relu_()
        residual = self.bn_branch2b2(self.conv_branch2b1(self.dropout(residual))).relu_()
        total: Tensor = self.conv_branch1(active) + self.conv_branch2b2(self.dropout(residual))
        return total


class ResNet38(nn.Module):
    """ResNet-38 without its classifier: maps at three depths, all at stride 8.

    Args:
        width: channels of the first convolution, a multiple of 2. All others scale with it; 64 is the published
            network, with 105 M parameters in 43 convolutions and 37 norms.
        freeze_norm: whether norms keep their statistics even in training mode, and their scales and offsets are not
            trained. As in the official code; only for pretrained weights, as norms without statistics normalise
            nothing.
        freeze_stem: whether ``conv1a`` and the three units ``b2`` are not trained, as in the official code; also only
            for pretrained weights.
    """

    def __init__(self, width: int = 64, freeze_norm: bool = True, freeze_stem: bool = True) -> None:
        super().__init__()
        if width < 2 or width % 2:
            raise ValueError(f"width must be a positive multiple of 2, not {width}")
        w = width
        self.freeze_norm = freeze_norm
        self.conv1a = nn.Conv2d(3, w, 3, padding=1, bias=False)
        self.b2 = WideUnit(w, 2 * w, 2 * w, stride=2)
        self.b2_1 = WideUnit(2 * w, 2 * w, 2 * w)
        self.b2_2 = WideUnit(2 * w, 2 * w, 2 * w)
        self.b3 = WideUnit(2 * w, 4 * w, 4 * w, stride=2)
        self.b3_1 = WideUnit(4 * w, 4 * w, 4 * w)
        self.b3_2 = WideUnit(4 * w, 4 * w, 4 * w)
        self.b4 = WideUnit(4 * w, 8 * w, 8 * w, stride=2)
        self.b4_1 = WideUnit(8 * w, 8 * w, 8 * w)
        self.b4_2 = WideUnit(8 * w, 8 * w, 8 * w)
        self.b4_3 = WideUnit(8 * w, 8 * w, 8 * w)
        self.b4_4 = WideUnit(8 * w, 8 * w, 8 * w)
        self.b4_5 = WideUnit(8 * w, 8 * w, 8 * w)
        self.b5 = WideUnit(8 * w, 8 * w, 16 * w, dilation=2, first_dilation=1)
        self.b5_1 = WideUnit(16 * w, 8 * w, 16 * w, dilation=2)
        self.b5_2 = WideUnit(16 * w, 8 * w, 16 * w, dilation=2)
        self.b6 = BottleneckUnit(16 * w, 32 * w, dilation=4, dropout=0.3)
        self.b7 = BottleneckUnit(32 * w, 64 * w, dilation=4, dropout=0.5)
        self.bn7 = nn.BatchNorm2d(64 * w)
        if freeze_stem:
            for part in (self.conv1a, self.b2, self.b2_1, self.b2_2):
                part.requires_grad_(False)
        if freeze_norm:
            for norm in self._norms():
                norm.requires_grad_(False)
                norm.eval()

    def train(self, mode: bool = True) -> ResNet38:
        """Set the training mode; frozen norms stay in evaluation mode."""
        super().train(mode)
        if self.freeze_norm:
            for norm in self._norms():
                norm.eval()
        return self

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return maps of images (B, 3, H, W): float in 0..1 without further normalisation in the official code.

        Returns:
            ``b4_5`` (B, 8w, H/8, W/8) and ``b5_2`` (B, 16w, H/8, W/8), both plain sums, and ``bn7`` (B, 64w, H/8,
            W/8) after its ReLU; sides rounded up.
        """
        x = self.b2_2(self.b2_1(self.b2(self.conv1a(x))))
        x = self.b3_2(self.b3_1(self.b3(x)))
        x = self.b4_3(self.b4_2(self.b4_1(self.b4(x))))
        b4_5 = self.b4_5(self.b4_4(x))
        b5_2 = self.b5_2(self.b5_1(self.b5(b4_5)))
        bn7 = self.bn7(self.b7(self.b6(b5_2))).relu_()
        return b4_5, b5_2, bn7

    def _norms(self) -> list[_BatchNorm]:
        """Return the norms, also once several processes have made them synchronised ones."""
        return [module for module in self.modules() if isinstance(module, _BatchNorm)]
