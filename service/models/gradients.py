"""Gradients through a frozen encoder, without the slow paths of CPU kernels.

The input's gradient of a depthwise convolution with stride has no fast kernel on CPUs: four layers
of EfficientNet-Lite0 take half of its backward pass. It equals a depthwise convolution of stride 1
of the output's gradient, with zeros between its values and the kernel turned round, which has.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional


def quicken(encoder: nn.Module) -> None:
    """Let every strided depthwise convolution of a frozen module take the fast way back."""
    for module in encoder.modules():
        if isinstance(module, nn.Conv2d) and _applies(module):
            module._conv_forward = _quick(module)  # type: ignore[assignment, method-assign]


def _applies(conv: nn.Conv2d) -> bool:
    depthwise = conv.groups == conv.in_channels == conv.out_channels > 1
    plain = conv.dilation == (1, 1) and conv.padding_mode == "zeros"
    frozen = not any(parameter.requires_grad for parameter in conv.parameters())
    return depthwise and plain and frozen and conv.stride != (1, 1)


def _quick(conv: nn.Conv2d) -> Callable[[Tensor, Tensor, Tensor | None], Tensor]:
    """A convolution's own forward pass, whose backward pass is `_Strided`'s."""
    stride = conv.stride
    # Of words torch takes "valid" alone beside a stride.
    padding = (0, 0) if isinstance(conv.padding, str) else conv.padding

    def forward(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        kind = x.device.type
        if torch.is_autocast_enabled(kind):
            dtype = torch.get_autocast_dtype(kind)
            x, weight = x.to(dtype), weight.to(dtype)
            bias = None if bias is None else bias.to(dtype)
        groups = x.shape[1]
        if weight.requires_grad:  # a copy that is trained after all
            return functional.conv2d(x, weight, bias, stride, padding, groups=groups)
        out: Tensor = _Strided.apply(x, weight, bias, stride, padding)  # type: ignore[no-untyped-call]
        return out

    return forward


class _Strided(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        stride: tuple[int, int],
        padding: tuple[int, int],
    ) -> Tensor:
        ctx.save_for_backward(weight)
        ctx.size, ctx.stride, ctx.padding = x.shape[2:], stride, padding
        return functional.conv2d(x, weight, bias, stride, padding, groups=x.shape[1])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None, None]:
        (gradient,) = gradients
        (weight,) = ctx.saved_tensors
        n, c, rows, columns = gradient.shape
        (down, across), (top, left) = ctx.stride, ctx.padding
        height, width = ctx.size[0] + 2 * top, ctx.size[1] + 2 * left
        kernel_h, kernel_w = weight.shape[2:]
        # A border of kernel - 1 zeros makes the convolution a full one over the padded input.
        apart = gradient.new_zeros(
            (n, c, height + kernel_h - 1, width + kernel_w - 1),
        ).to(memory_format=torch.channels_last)
        inside = apart[:, :, kernel_h - 1 :: down, kernel_w - 1 :: across]
        inside[:, :, :rows, :columns] = gradient
        whole = functional.conv2d(apart, weight.flip(2, 3).to(gradient), groups=c)
        return whole[:, :, top : height - top, left : width - left], None, None, None, None
