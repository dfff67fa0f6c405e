import math

import numpy as np
import pytest
from scipy.stats import binom

from service.evaluation.rescore import cosine_estimate, cosine_upper, mean_lower
from tests.certificate.closed_form import rotation, rotation_truth


def most(trials, alpha):
    return int(binom.isf(1e-6, trials, alpha))


@pytest.mark.parametrize("p", [0.02, 0.5, 0.98])
def test_mean_lower_covers_two_point_laws(p):
    rng = np.random.default_rng(int(100 * p))
    wrong = 0
    for _ in range(400):
        values = np.where(rng.random(200) < p, 1.0, -1.0)
        wrong += mean_lower(values[50:], values[:50], 0.3) > 2 * p - 1
    assert 0 < wrong <= most(400, 0.3)


@pytest.mark.parametrize("c", [0.1, 0.5, 1.5])
def test_cosine_upper_covers(c):
    u = np.array([math.cos(0.4), math.sin(0.4)], np.float32)
    truth = rotation_truth(u, c, 1, 0)
    rng = np.random.default_rng(int(10 * c))
    uppers = [cosine_upper(rotation(rng, 200, c, 1), u, 0.3) for _ in range(300)]
    assert sum(upper < truth for upper in uppers) <= most(300, 0.3)


def test_cosine_upper_closes_in():
    u = np.array([math.cos(0.4), math.sin(0.4)], np.float32)
    rng = np.random.default_rng(1)
    upper = cosine_upper(rotation(rng, 4000, 0.3, 1), u, 0.001)
    assert math.cos(0.4) < upper < math.cos(0.4) + 0.015


def test_identical_and_opposite_features():
    u = np.array([1, 0, 0], np.float32)
    assert cosine_upper(np.tile(u, (100, 1)), u, 0.001) == 1.0
    assert cosine_upper(np.tile(-u, (100, 1)), u, 0.001) == 0.0


def test_estimate_has_no_bias_of_a_small_sample():
    u = np.array([math.cos(0.4), math.sin(0.4)], np.float32)
    rng = np.random.default_rng(2)
    found = [cosine_estimate(rotation(rng, 20, 0.7, 1), u) for _ in range(2000)]
    assert np.mean(found) == pytest.approx(math.cos(0.4), abs=0.006)
