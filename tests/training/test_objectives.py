import pytest
import torch

from service.training.objectives import (
    cosines,
    denoising_loss,
    distance_loss,
    relations_loss,
    robustness_loss,
    statistics_loss,
)


def unit_rows(n, d, seed=0):
    rows = torch.randn(n, d, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.normalize(rows)


def test_every_sigma_counts_alike_for_errors_as_large_as_a_prior_would_leave():
    pictures = torch.zeros(2, 3, 8, 8)
    sigmas = torch.tensor([0.05, 1.0])
    left = sigmas * 0.25 / (sigmas**2 + 0.25**2).sqrt()
    estimate = pictures + left.view(-1, 1, 1, 1)
    assert denoising_loss(estimate, pictures, sigmas) == pytest.approx(1, rel=1e-5)
    for row in range(2):
        one = slice(row, row + 1)
        loss = denoising_loss(estimate[one], pictures[one], sigmas[one])
        assert loss == pytest.approx(1, rel=1e-5)


def test_distance_is_the_root_mean_square_of_each_picture():
    estimate = torch.stack([torch.full((3, 4, 4), 0.1), torch.full((3, 4, 4), -0.3)])
    assert distance_loss(estimate, torch.zeros(2, 3, 4, 4)) == pytest.approx(0.2, abs=1e-3)
    exact = torch.zeros(1, 3, 4, 4, requires_grad=True)
    distance_loss(exact, torch.zeros(1, 3, 4, 4)).backward()
    assert exact.grad.isfinite().all()


def test_robustness_is_one_minus_the_cosine_at_any_scale():
    a, b = torch.tensor([[3.0, 0.0], [0.0, 2.0]]), torch.tensor([[5.0, 0.0], [1.0, 0.0]])
    assert robustness_loss(a, b) == pytest.approx(0.5)


def test_statistics_are_zero_for_the_same_law_and_rise_when_features_collapse():
    rows = unit_rows(64, 8)
    assert statistics_loss(3 * rows, rows) == pytest.approx(0, abs=1e-9)
    mean = rows.mean(0, keepdim=True).expand_as(rows)
    collapsed = statistics_loss(mean + 1e-6 * rows, rows)
    assert collapsed > 0.5
    assert statistics_loss(unit_rows(64, 8, seed=1), rows) < 0.3 * collapsed


def test_cosines_of_bfloat16_features_are_not_rounded_to_its_steps():
    one, other = unit_rows(500, 64, 1).bfloat16(), unit_rows(500, 64, 2).bfloat16()
    exact = torch.nn.functional.cosine_similarity(one.double(), other.double())
    torch.testing.assert_close(cosines(one, other).double(), exact, atol=1e-6, rtol=0)
    assert robustness_loss(one, other) == pytest.approx(float(1 - exact.mean()), abs=1e-5)


def test_the_relations_loss_sees_what_moves_all_pictures_together():
    generator = torch.Generator().manual_seed(0)
    clean = torch.randn(16, 8, generator=generator)
    turned = clean @ torch.linalg.qr(torch.randn(8, 8, generator=generator)).Q
    together = clean + 3.0
    assert relations_loss(clean, clean) == 0
    assert relations_loss(5 * turned, clean) < 1e-12  # relations alone count
    assert relations_loss(together, clean) > 0.05
