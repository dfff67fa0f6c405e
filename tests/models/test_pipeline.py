import math

import pytest
import torch

from service.models.pipeline import Parts, Pipeline, unit
from service.types import Preprocessing
from tests.models.parts import small_mapper, small_unet
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


SIGMAS = torch.tensor([0.0, 0.25, 0.5, 0.25])


class Pixels(Rotation):
    """Its feature is its first four pixels."""

    def pooled(self, pixels):
        return pixels.flatten(1)[:, :4]


def composed(purifier=None, mapper=None):
    parts = Parts(Pixels(), purifier, mapper)
    return Pipeline(parts, HOW, torch.device("cpu"), torch.float32)


def levels():
    return torch.rand(4, 3, *SIZE, generator=torch.Generator().manual_seed(2)) * 255


@pytest.mark.parametrize("with_purifier", [False, True])
@pytest.mark.parametrize("with_mapper", [False, True])
def test_purifier_encoder_and_mapper_are_composed_in_this_order(with_purifier, with_mapper):
    purifier = small_unet() if with_purifier else None
    mapper = small_mapper(4) if with_mapper else None
    pictures = levels() / 255
    with torch.no_grad():
        expected = pictures if purifier is None else purifier(pictures, SIGMAS)
        expected = expected.flatten(1)[:, :4]
        expected = expected if mapper is None else mapper(expected, SIGMAS)
    found = composed(purifier, mapper)(levels(), SIGMAS)
    torch.testing.assert_close(found, unit(expected), atol=1e-5, rtol=1e-5)


def test_a_row_that_is_told_no_sigma_is_the_bare_encoders():
    found = composed(small_unet(), small_mapper(4))(levels(), torch.zeros(4))
    assert torch.equal(found, composed()(levels()))


def test_an_encoder_alone_is_the_same_function_whatever_it_is_told():
    assert torch.equal(composed()(levels(), SIGMAS), composed()(levels()))
    assert not composed().told_sigma


def test_purifier_and_mapper_must_be_told_sigma():
    assert composed(mapper=small_mapper(4)).told_sigma
    with pytest.raises(ValueError, match="told sigma"):
        composed(small_unet())(levels())


def test_the_mapper_stays_in_float32_beside_a_bfloat16_encoder():
    parts = Parts(Pixels(), small_unet(), small_mapper(4))
    pipeline = Pipeline(parts, HOW, torch.device("cpu"), torch.bfloat16)
    kinds = [next(p.parameters()).dtype for p in (pipeline.purifier, pipeline.mapper)]
    assert kinds == [torch.bfloat16, torch.float32]
    features = pipeline(levels(), SIGMAS)
    assert features.dtype == torch.float32
    assert (features.norm(dim=1) - 1).abs().max() < 1e-6


def test_a_sample_tells_the_norm_its_feature_had_and_0_where_it_had_none():
    class Scaled(Rotation):
        def pooled(self, pixels):
            return super().pooled(pixels) * torch.tensor([2.0, math.nan, 0.0, 5.0])[:, None]

    pipeline = Pipeline(Scaled(), HOW, torch.device("cpu"), torch.float32)
    features, norms = pipeline.sample(torch.rand(4, 3, *SIZE) * 255)
    torch.testing.assert_close(norms, torch.tensor([2.0, 0.0, 0.0, 5.0]))
    torch.testing.assert_close(features.norm(dim=1), torch.ones(4))
