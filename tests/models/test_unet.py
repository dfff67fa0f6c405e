import pytest
import torch

from service.models.unet import UNet, UNetConfig
from tests.models.parts import SMALL_UNET, shaken, small_unet

SIGMAS = torch.tensor([0.0, 0.1, 0.5, 2.0])


def noisy(*shape):
    return torch.rand(shape, generator=torch.Generator().manual_seed(1)) * 1.4 - 0.2


@torch.no_grad()
def test_a_row_without_noise_comes_back_bit_for_bit():
    pictures = noisy(4, 3, 16, 16)
    estimate = small_unet()(pictures, SIGMAS)
    assert torch.equal(estimate[0], pictures[0])
    assert (estimate[1:] - pictures[1:]).abs().amax((1, 2, 3)).min() > 1e-3


@torch.no_grad()
def test_a_new_network_shrinks_towards_the_centre_as_a_gaussian_prior_would():
    pictures = noisy(4, 3, 16, 16)
    estimate = UNet(SMALL_UNET)(pictures, SIGMAS)
    kept = (0.25**2 / (0.25**2 + SIGMAS**2)).view(-1, 1, 1, 1)
    torch.testing.assert_close(estimate, 0.5 + kept * (pictures - 0.5), atol=5e-2, rtol=0)


@torch.no_grad()
def test_every_row_is_told_its_own_sigma():
    network, pictures = small_unet(), noisy(1, 3, 16, 16).expand(4, -1, -1, -1)
    together = network(pictures, SIGMAS)
    for row, sigma in enumerate(SIGMAS):
        alone = network(pictures[:1], sigma[None])
        torch.testing.assert_close(together[row], alone[0], atol=1e-5, rtol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("size", [(16, 16), (17, 30), (3, 5)])
def test_any_size_is_padded_and_cut_back(size):
    estimate = small_unet()(noisy(2, 3, *size), torch.tensor([0.1, 0.3]))
    assert estimate.shape == (2, 3, *size)
    assert estimate.isfinite().all()


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format])
def test_it_serves_in_every_arrangement(dtype, layout):
    pictures, reference = noisy(4, 3, 16, 16), small_unet()(noisy(4, 3, 16, 16), SIGMAS)
    network = small_unet().to(dtype).to(memory_format=layout)
    estimate = network(pictures, SIGMAS)
    assert estimate.dtype == torch.float32
    assert torch.equal(estimate[0], pictures[0])
    torch.testing.assert_close(estimate, reference, atol=0.1, rtol=0.1)


def test_widths_and_depths_must_go_together():
    with pytest.raises(ValueError, match="each level has one of both"):
        UNet(UNetConfig(widths=(8, 12, 16), depths=(1, 1)))


@torch.inference_mode()
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("batch", [4, 8, 16])
def test_what_a_row_becomes_depends_on_no_other_row_and_not_on_its_place(dtype, batch):
    """To the last bit, in the shape that is served: how samples are packed must not matter."""
    network = shaken(UNet(UNetConfig(widths=(48, 96, 144), depths=(1, 1, 2))))
    network = network.to(dtype).to(memory_format=torch.channels_last)
    generator, one, found = torch.Generator().manual_seed(3), noisy(3, 32, 32), []
    for row in range(batch):
        pictures = torch.rand(batch, 3, 32, 32, generator=generator)
        sigmas = torch.rand(batch, generator=generator)
        pictures[row], sigmas[row] = one, 0.25
        found.append(network(0.1 * pictures, sigmas)[row])
    assert all(torch.equal(found[0], other) for other in found[1:])
