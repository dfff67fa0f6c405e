import math

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.stats import norm

from service.certificate.ratio import LARGEST_SHIFT, likelihood_ratio


@pytest.mark.parametrize("shift", [0.01, 0.5, 1.0, 2.0, LARGEST_SHIFT])
@pytest.mark.parametrize(
    "convex", [lambda v: max(v - 1, 0), lambda v: max(1 - v, 0), lambda v: max(2 * v, 1.5)]
)
def test_expectations_of_convex_functions_are_rounded_upwards(shift, convex):
    ratio = likelihood_ratio(shift)

    def density(z):
        return convex(math.exp(shift * z - shift * shift / 2)) * norm.pdf(z)

    exact = quad(density, -12, 12 + shift, limit=400)[0]
    # each of these functions grows by at most 2 a unit beyond the last node
    beyond = 2 * ratio.shifted_tail + convex(0) * ratio.tail
    found = ratio.weights @ [convex(v) for v in ratio.nodes] + beyond
    assert exact <= found + 1e-9
    assert found <= exact + 0.01 * max(shift, 1)


def test_the_weights_are_a_law_of_mean_one():
    ratio = likelihood_ratio(1.0)
    assert ratio.weights.sum() + ratio.tail == pytest.approx(1, abs=1e-9)
    assert ratio.weights @ ratio.nodes + ratio.shifted_tail == pytest.approx(1, abs=1e-9)
    assert (ratio.weights >= 0).all()


def test_a_shift_of_zero_is_rounded_up():
    assert np.array_equal(likelihood_ratio(0.0).nodes, likelihood_ratio(0.01).nodes)
