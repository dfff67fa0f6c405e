"""EfficientNet-Lite0, the embedded default: a plain ReLU6 network without squeeze-excite gates.

Architecture: Tan & Le 2019 (arXiv:1905.11946) in its "lite" form. Batch norms are folded into their
convolutions once, when the published checkpoint is converted: the forward pass has no others.
"""

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from service.models.encoder import Encoder

_BATCH_NORM_EPSILON = 1e-3
FEATURES = 1280
CLASSES = 1000


class _Stage(NamedTuple):
    kernel: int
    stride: int
    expansion: int
    channels_in: int
    channels_out: int
    repeats: int


_STAGES = (
    _Stage(3, 1, 1, 32, 16, 1),
    _Stage(3, 2, 6, 16, 24, 2),
    _Stage(5, 2, 6, 24, 40, 2),
    _Stage(3, 2, 6, 40, 80, 3),
    _Stage(5, 1, 6, 80, 112, 3),
    _Stage(5, 2, 6, 112, 192, 4),
    _Stage(3, 1, 6, 192, 320, 1),
)


class _SameConv(nn.Conv2d):
    """Convolution with TensorFlow's "same" padding for even sizes: one pixel less in front."""

    def __init__(
        self, channels_in: int, channels_out: int, kernel: int, stride: int = 1, groups: int = 1
    ):
        inner = kernel // 2 if stride == 1 else 0
        super().__init__(channels_in, channels_out, kernel, stride, padding=inner, groups=groups)
        self._outer = (kernel // 2 - 1, kernel // 2) * 2 if stride == 2 else None

    def forward(self, x: Tensor) -> Tensor:
        if self._outer is not None:
            x = functional.pad(x, self._outer)
        return super().forward(x)


class _Block(nn.Module):
    """Inverted residual: expand, depthwise, project."""

    def __init__(self, stage: _Stage, channels_in: int, stride: int) -> None:
        super().__init__()
        middle = channels_in * stage.expansion
        self.expand = _SameConv(channels_in, middle, 1) if stage.expansion > 1 else None
        self.depthwise = _SameConv(middle, middle, stage.kernel, stride, groups=middle)
        self.project = _SameConv(middle, stage.channels_out, 1)
        self.residual = stride == 1 and channels_in == stage.channels_out

    def forward(self, x: Tensor) -> Tensor:
        middle: Tensor = (
            x if self.expand is None else functional.relu6(self.expand(x), inplace=True)
        )
        middle = functional.relu6(self.depthwise(middle), inplace=True)
        y: Tensor = self.project(middle)
        return x + y if self.residual else y


class Lite0(Encoder):
    """[n, 3, H, W] -> pooled [n, 1280]; H and W multiples of 32."""

    dimensions = FEATURES

    def __init__(self) -> None:
        super().__init__()
        self.stem = _SameConv(3, 32, 3, 2)
        self.blocks = nn.ModuleList(
            _Block(
                stage,
                stage.channels_out if repeat else stage.channels_in,
                1 if repeat else stage.stride,
            )
            for stage in _STAGES
            for repeat in range(stage.repeats)
        )
        self.head = _SameConv(320, FEATURES, 1)
        self.classifier = nn.Linear(FEATURES, CLASSES)

    def class_rows(self) -> Tensor:
        """The ImageNet classifier's weights, [1000, 1280]."""
        return self.classifier.weight.detach()

    def feature_map(self, pixels: Tensor) -> Tensor:
        """[n, 3, H, W] -> [n, 1280, H/32, W/32]."""
        x = functional.relu6(self.stem(pixels), inplace=True)
        for block in self.blocks:
            x = block(x)
        features: Tensor = functional.relu6(self.head(x), inplace=True)
        return features

    def pooled(self, pixels: Tensor) -> Tensor:
        """Average over positions: [n, 3, H, W] -> [n, 1280]."""
        return self.feature_map(pixels).mean((2, 3))

    def tokens(self, pixels: Tensor) -> Tensor:
        """One token a position: [n, 3, H, W] -> [n, H/32 * W/32, 1280]."""
        return self.feature_map(pixels).flatten(2).transpose(1, 2)


def fold_checkpoint(published: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The published state dict (batch norms apart) -> the state dict of `Lite0`, in float32."""
    folded: dict[str, Tensor] = {
        "classifier.weight": published["_fc.weight"].contiguous(),
        "classifier.bias": published["_fc.bias"].contiguous(),
    }

    def fold(target: str, convolution: str, norm: str) -> None:
        weight = published[f"{convolution}.weight"].double()
        variance = published[f"{norm}.running_var"].double()
        scale = published[f"{norm}.weight"].double() / torch.sqrt(variance + _BATCH_NORM_EPSILON)
        shift = (
            published[f"{norm}.bias"].double() - published[f"{norm}.running_mean"].double() * scale
        )
        folded[f"{target}.weight"] = (weight * scale[:, None, None, None]).float().contiguous()
        folded[f"{target}.bias"] = shift.float()

    fold("stem", "_conv_stem", "_bn0")
    fold("head", "_conv_head", "_bn1")
    for i in range(sum(stage.repeats for stage in _STAGES)):
        old, new = f"_blocks.{i}", f"blocks.{i}"
        if f"{old}._expand_conv.weight" in published:
            fold(f"{new}.expand", f"{old}._expand_conv", f"{old}._bn0")
        fold(f"{new}.depthwise", f"{old}._depthwise_conv", f"{old}._bn1")
        fold(f"{new}.project", f"{old}._project_conv", f"{old}._bn2")
    return folded
