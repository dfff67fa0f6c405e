import pytest
import torch

from service.models.mapper import Mapper, MapperConfig
from tests.models.parts import shaken, small_mapper

SIGMAS = torch.tensor([0.0, 0.1, 0.5])


def features(*shape, dtype=torch.float32):
    return torch.randn(shape, generator=torch.Generator().manual_seed(1)).to(dtype)


@torch.no_grad()
@pytest.mark.parametrize(("shape", "grid"), [((3, 10), None), ((3, 6, 10), (2, 3))])
def test_it_is_the_identity_at_sigma_0_and_not_elsewhere(shape, grid):
    given = features(*shape)
    mapped = small_mapper(10, grid=grid)(given, SIGMAS)
    assert mapped.shape == given.shape
    assert torch.equal(mapped[0], given[0])
    assert (mapped[1:] - given[1:]).abs().flatten(1).amax(1).min() > 1e-3


@torch.no_grad()
@pytest.mark.parametrize(("shape", "grid"), [((3, 10), None), ((3, 6, 10), (2, 3))])
def test_the_scale_of_an_encoder_does_not_matter(shape, grid):
    mapper, given = small_mapper(10, grid=grid), features(*shape)
    scaled = mapper(1024 * given, SIGMAS) / 1024
    torch.testing.assert_close(scaled, mapper(given, SIGMAS), atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_tokens_are_mixed_by_attention_and_by_place():
    mapper, given = small_mapper(10, grid=(2, 3)), features(1, 6, 10)
    changed = given.clone()
    changed[0, 5] += 3
    sigmas = torch.tensor([0.5])
    moved = mapper.residual(changed, sigmas) - mapper.residual(given, sigmas)
    assert moved[0, 0].abs().max() > 1e-4  # far from the changed one
    turned = given[:, [5, 4, 3, 2, 1, 0]]
    unturned = mapper(turned, sigmas)[:, [5, 4, 3, 2, 1, 0]]
    assert (unturned - mapper(given, sigmas)).abs().max() > 1e-4  # convolution knows the grid


@torch.no_grad()
def test_rows_do_not_see_each_other():
    mapper, given = small_mapper(10), features(3, 10)
    together = mapper(given, SIGMAS)
    for row in range(3):
        alone = mapper(given[row : row + 1], SIGMAS[row : row + 1])
        torch.testing.assert_close(together[row], alone[0])


@torch.no_grad()
def test_a_feature_of_zeros_stays_finite():
    assert small_mapper(10)(torch.zeros(3, 10), SIGMAS).isfinite().all()


@torch.no_grad()
def test_features_keep_their_dtype():
    assert small_mapper(10)(features(3, 10, dtype=torch.bfloat16), SIGMAS).dtype == torch.bfloat16


@torch.inference_mode()
@pytest.mark.parametrize("batch", [4, 8, 16, 32])
def test_what_a_row_becomes_depends_on_no_other_row_and_not_on_its_place(batch):
    """To the last bit, at the size that is served."""
    mapper = shaken(Mapper(MapperConfig(1280)))
    generator, one, found = torch.Generator().manual_seed(3), features(1280), []
    for row in range(batch):
        given = torch.randn(batch, 1280, generator=generator)
        sigmas = torch.rand(batch, generator=generator)
        given[row], sigmas[row] = one, 0.25
        found.append(mapper(given, sigmas)[row])
    assert all(torch.equal(found[0], other) for other in found[1:])
