import itertools

import pytest
import torch

from service.evaluation.lattice import project, to_levels


def picture(seed, size=8):
    return torch.randint(
        0, 256, (3, size, size), generator=torch.Generator().manual_seed(seed)
    ).float()


@pytest.mark.parametrize("budget", [0.5, 1.0, 3.0, 16.0, 200.0, 5000.0])
def test_whole_levels_inside_ball_and_box(budget):
    x = picture(1)
    change = torch.randn((4, 3, 8, 8), generator=torch.Generator().manual_seed(2))
    found = to_levels(change, x, budget)
    assert torch.equal(found, found.round())
    assert (found.double().square().sum((1, 2, 3)) <= budget**2).all()
    assert (x + found).min() >= 0
    assert (x + found).max() <= 255


@pytest.mark.parametrize("budget", [3.0, 16.0, 200.0])
def test_the_ball_is_filled(budget):
    """Without ties one more step always fits, unless it costs more than is left."""
    x = torch.full((3, 32, 32), 128.0)
    change = torch.randn((2, 3, 32, 32), generator=torch.Generator().manual_seed(2))
    found = to_levels(change, x, budget)
    left = budget**2 - found.square().sum((1, 2, 3))
    assert (left <= 2 * found.abs().amax((1, 2, 3)) + 1).all()


def test_a_change_far_below_half_a_level_still_moves_pixels():
    x = picture(3, 32)
    change = project(torch.randn((1, 3, 32, 32)), x, 2.0)
    assert change.round().abs().sum() == 0
    assert to_levels(change, x, 2.0).abs().sum() >= 3


def test_no_lattice_point_of_that_norm_does_better():
    x = torch.full((3, 1, 1), 128.0)
    for seed in range(20):
        gradient = torch.randn((1, 3, 1, 1), generator=torch.Generator().manual_seed(seed))
        found = to_levels(gradient, x, 3.5)
        best = max(
            sum(g * d for g, d in zip(gradient.flatten().tolist(), point, strict=True))
            for point in itertools.product(range(-4, 5), repeat=3)
            if sum(d * d for d in point) <= float(found.square().sum())
        )
        assert float((gradient * found).sum()) == pytest.approx(best, abs=1e-5)


def test_projection_stays_inside_both():
    x = picture(4)
    change = project(100 * torch.randn((3, 3, 8, 8)), x, 40.0)
    assert (change.flatten(1).norm(dim=1) <= 40.001).all()
    assert (x + change).min() >= 0
    assert (x + change).max() <= 255


def test_no_change_stays_none():
    assert to_levels(torch.zeros((1, 3, 8, 8)), picture(5), 10.0).abs().sum() == 0
