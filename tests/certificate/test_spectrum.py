import math

import numpy as np
import pytest
from scipy.stats import binom

from service.certificate.spectrum import second_moment_upper

ALPHA = 0.3
FALSE_ALARM = 1e-6


def wager(h, value, alpha):
    """ln of the wealth, less ln(1/alpha), by dense linear algebra (docs/certificate.md, "B")."""
    stake, radii = 0.97 / (1 - value), np.minimum((h * h).sum(1), 1)
    price = np.log((1 + stake * value) / (1 + stake * (value - radii))) / radii
    top = np.linalg.eigvalsh((h * price[:, None]).T @ h)[-1]
    return len(h) * math.log1p(stake * value) - top - math.log(1 / alpha)


@pytest.mark.parametrize(("n", "d"), [(50, 8), (50, 200), (300, 12), (300, 700), (400, 400)])
@pytest.mark.parametrize("scale", [1e-4, 0.1, 0.9])
def test_is_rejected_by_the_wager_and_hardly_above_what_must_be(n, d, scale):
    rng = np.random.default_rng([n, d])
    h = rng.normal(size=(n, d)) * np.arange(1, d + 1) ** -0.6
    h *= scale / np.linalg.norm(h, axis=1).max()
    found = second_moment_upper(h, n, 0.001)
    assert wager(h, found, 0.001) >= 0
    assert wager(h, found * 0.995, 0.001) < 0


def test_fails_in_at_most_its_alpha_of_the_runs():
    """h = ±e with probability q, else 0: lambda is q."""
    rng = np.random.default_rng(31)
    q, n, trials, failures = 0.15, 60, 400, 0
    for _ in range(trials):
        h = np.zeros((n, 3))
        h[:, 1] = (rng.random(n) < q) * rng.choice([-1, 1], n)
        failures += second_moment_upper(h, n, ALPHA) < q
    assert 0 < failures <= binom.isf(FALSE_ALARM, trials, ALPHA)


def test_adapts_to_the_worst_of_many_directions():
    """Isotropic h: the sample's top direction is noise, and must not cost soundness."""
    rng = np.random.default_rng(32)
    d, n, trials, failures = 30, 40, 200, 0
    for _ in range(trials):
        h = rng.normal(size=(n, d))
        h *= 0.5 / np.linalg.norm(h, axis=1, keepdims=True)
        failures += second_moment_upper(h, n, ALPHA) < 0.25 / d
    assert failures <= binom.isf(FALSE_ALARM, trials, ALPHA)


def test_nothing_moves_nothing():
    assert second_moment_upper(np.zeros((500, 20)), 500, 0.001) < 0.02


def test_the_largest_movement_is_not_bounded_below_one():
    h = np.zeros((50, 4))
    h[:, 0] = 1
    assert second_moment_upper(h, 50, 0.001) == 1


def test_blocks_get_the_chernoff_bound():
    assert second_moment_upper(0.02, 5000, 0.001) == pytest.approx(0.0300, abs=2e-3)
