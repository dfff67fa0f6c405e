"""Behaviour of service/models/gradients.py."""

import copy
from pathlib import Path

import pytest
import torch
from torch import nn

from service.models.families import load_encoder
from service.models.gradients import quicken
from tests.models import tiny_folders


def _input_gradient(module: nn.Module, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    x = x.clone().requires_grad_()
    out = module(x)
    out.square().sum().backward()
    assert x.grad is not None
    return out.detach(), x.grad


@pytest.mark.parametrize("side", [7, 8, 11, 16])
@pytest.mark.parametrize(
    ("kernel", "stride", "padding"),
    [(3, 2, 0), (3, 2, 1), (5, 2, 2), (3, 3, 1), (2, 2, 0), (3, 2, "valid")],
)
def test_the_gradient_is_the_one_torch_computes(
    side: int, kernel: int, stride: int, padding: int | str
) -> None:
    torch.manual_seed(0)
    conv = nn.Conv2d(4, 4, kernel, stride, padding, groups=4).requires_grad_(False)
    plain = copy.deepcopy(conv)
    quicken(conv)
    x = torch.randn(3, 4, side, side + 2)

    out, gradient = _input_gradient(conv, x)

    expected_out, expected = _input_gradient(plain, x)
    assert torch.equal(out, expected_out)
    torch.testing.assert_close(gradient, expected)


def test_every_layer_of_a_network_keeps_its_gradient_in_mixed_precision_too() -> None:
    torch.manual_seed(0)
    layers = nn.Sequential(
        nn.Conv2d(3, 8, 3, 2, 1),
        nn.Conv2d(8, 8, 3, 2, 1, groups=8, bias=False),
        nn.ReLU6(),
        nn.Conv2d(8, 8, 5, 2, 2, groups=8),
    ).requires_grad_(False)
    plain = copy.deepcopy(layers)
    quicken(layers)
    x = torch.randn(2, 3, 32, 32)

    with torch.autocast("cpu", torch.bfloat16):
        out, gradient = _input_gradient(layers, x)
        expected_out, expected = _input_gradient(plain, x)

    assert out.dtype == torch.bfloat16
    assert torch.equal(out, expected_out)
    torch.testing.assert_close(gradient, expected, rtol=0.05, atol=0.02)


def test_a_layer_that_is_trained_itself_is_left_alone() -> None:
    conv = nn.Conv2d(4, 4, 3, 2, groups=4)

    quicken(conv)

    conv(torch.randn(1, 4, 9, 9)).sum().backward()
    assert conv.weight.grad is not None
    assert conv.weight.grad.abs().sum() > 0


def test_a_hugging_face_efficientnet_keeps_its_gradient(tmp_path: Path) -> None:
    """Its depthwise layers are padded by a word."""
    tiny_folders.write("efficientnet", tmp_path / "net", tiny_folders.LIVELY)
    plain = load_encoder(tmp_path / "net").eval().requires_grad_(False)
    quick = copy.deepcopy(plain)
    quicken(quick)
    torch.manual_seed(0)
    x = torch.randn(2, 3, 32, 32)

    def gradient(encoder: nn.Module) -> torch.Tensor:
        shown = x.clone().requires_grad_()
        encoder.pooled(shown).square().sum().backward()  # type: ignore[operator]
        assert shown.grad is not None
        return shown.grad

    expected = gradient(plain)
    size = expected.abs().max()
    assert size > 0
    torch.testing.assert_close(gradient(quick) / size, expected / size, atol=1e-5, rtol=0)
