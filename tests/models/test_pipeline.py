import math

import pytest
import torch

from service.models.pipeline import Pipeline, unit
from service.types import Preprocessing
from tests.tiny import HOW, SIZE, Rotation


@pytest.mark.parametrize("bad", [0.0, math.nan, math.inf, -math.inf])
def test_a_feature_that_cannot_be_normalised_becomes_a_fixed_unit_vector(bad):
    rows = torch.tensor([[3.0, 4.0], [bad, bad], [0.0, 2.0]])
    torch.testing.assert_close(unit(rows), torch.tensor([[0.6, 0.8], [1.0, 0.0], [0.0, 1.0]]))


def test_one_bad_component_is_enough():
    torch.testing.assert_close(
        unit(torch.tensor([[1.0, math.nan, 2.0]])), torch.tensor([[1.0, 0.0, 0.0]])
    )


def test_bfloat16_features_have_unit_norm_to_single_precision():
    rows = torch.randn(50, 300, generator=torch.Generator().manual_seed(1)).bfloat16()
    assert (unit(rows).double().norm(dim=1) - 1).abs().max() < 1e-6


def test_normalisation_is_part_of_the_function():
    seen = []

    class Recording(Rotation):
        def pooled(self, pixels):
            seen.append(pixels.clone())
            return super().pooled(pixels)

    how = Preprocessing(SIZE, None, "bilinear", (0.5, 0.4, 0.3), (0.25, 0.5, 1.0))
    pipeline = Pipeline(Recording(), how, torch.device("cpu"), torch.float32)
    levels = torch.tensor([0.0, 51.0, 255.0]).view(1, 3, 1, 1).expand(2, 3, *SIZE).contiguous()
    pipeline(levels)
    torch.testing.assert_close(
        seen[0][0, :, 0, 0], torch.tensor([-2.0, (0.2 - 0.4) / 0.5, 0.7]), atol=1e-6, rtol=0
    )


@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format])
def test_pixels_reach_the_encoder_in_the_memory_format(layout):
    seen = []

    class Recording(Rotation):
        def pooled(self, pixels):
            seen.append(pixels)
            return super().pooled(pixels)

    pipeline = Pipeline(Recording(), HOW, torch.device("cpu"), torch.float32, layout)
    pipeline(torch.rand(4, 3, *SIZE))
    assert seen[0].is_contiguous(memory_format=layout)
    assert not seen[0].is_contiguous() or layout is torch.contiguous_format


def test_the_same_noisy_input_gives_the_same_feature_twice():
    pipeline = Pipeline(Rotation(), HOW, torch.device("cpu"), torch.float32)
    levels = torch.rand(4, 3, *SIZE) * 255
    assert torch.equal(pipeline(levels), pipeline(levels))
