"""MobileNetV2 from its distribution, against the published architecture written out here."""

import pytest
import torch
from torch import nn

from service.config import load_settings
from service.models.distributions import locate
from service.models.mobilenet import MobileNet, rename_checkpoint
from service.models.store import load_model, resolve

NAME = "mobilenet-v2-224"
# Expansion, channels, repeats, stride: table 2 of the paper.
TABLE = (
    (1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2),
    (6, 320, 1, 1),
)  # fmt: skip


def convolution(before, after, kernel, stride=1, groups=1):
    return [
        nn.Conv2d(before, after, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(after),
    ]


class Inverted(nn.Module):
    def __init__(self, before, after, stride, expansion):
        super().__init__()
        middle = before * expansion
        head = [*convolution(before, middle, 1), nn.ReLU6()] if expansion > 1 else []
        self.conv = nn.Sequential(
            *head, *convolution(middle, middle, 3, stride, middle), nn.ReLU6(),
            *convolution(middle, after, 1),
        )  # fmt: skip
        self.residual = stride == 1 and before == after

    def forward(self, x):
        return x + self.conv(x) if self.residual else self.conv(x)


class Published(nn.Module):
    def __init__(self):
        super().__init__()
        layers, before = [nn.Sequential(*convolution(3, 32, 3, 2), nn.ReLU6())], 32
        for expansion, after, repeats, stride in TABLE:
            for i in range(repeats):
                layers.append(Inverted(before, after, 1 if i else stride, expansion))
                before = after
        layers.append(nn.Sequential(*convolution(before, 1280, 1), nn.ReLU6()))
        self.features = nn.Sequential(*layers)

    def forward(self, x):
        return self.features(x)


def test_it_is_the_published_network_with_the_published_weights():
    source = resolve(NAME, load_settings()).encoder
    weights = torch.load(locate(source), map_location="cpu", weights_only=True)
    published = Published().eval()
    published.load_state_dict(weights)
    model = load_model(NAME, load_settings(dtype="float32"))
    pixels = torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        wanted = published(pixels)
        tokens = model.pipeline.encoder.tokens(pixels)
        pooled = model.pipeline.encoder.pooled(pixels)
    assert tokens.shape == (2, 49, 1280)
    torch.testing.assert_close(tokens, wanted.flatten(2).transpose(1, 2), rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(pooled, wanted.mean((2, 3)), rtol=1e-3, atol=1e-3)


def test_another_checkpoint_is_refused():
    state = MobileNet().state_dict()
    first = next(iter(state))
    with pytest.raises(ValueError, match="is"):
        rename_checkpoint({**state, first: torch.zeros(1)})
    with pytest.raises(ValueError, match="zip"):
        rename_checkpoint({first: state[first]})
