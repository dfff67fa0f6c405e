"""Certified radii of votes, against classifiers whose truth is known."""

import math
from itertools import pairwise

import numpy as np
import pytest
from scipy.stats import norm

from service.certificate.votes import count_votes, fewest_votes

ALPHA = 0.001


def test_votes_that_all_agree_give_the_radius_of_their_exact_bound():
    """p^n = alpha at the bound."""
    found = count_votes(100, 100, 0.25, ALPHA)
    assert found.lower == pytest.approx(ALPHA ** (1 / 100), abs=1e-9)
    assert found.lower <= ALPHA ** (1 / 100)
    assert found.radius == pytest.approx(0.25 * norm.ppf(ALPHA ** (1 / 100)), rel=1e-6)
    assert found.radius < 0.25 * norm.ppf(ALPHA ** (1 / 100))


@pytest.mark.parametrize("agreeing", [0, 40, 50, 60, 64])
def test_a_majority_that_is_not_certain_has_no_radius(agreeing):
    assert count_votes(agreeing, 100, 0.25, ALPHA).radius == 0.0


def test_the_radius_grows_with_agreement_and_with_noise():
    radii = [count_votes(k, 100, 0.25, ALPHA).radius for k in range(66, 101)]
    assert radii[0] > 0
    assert all(one < other for one, other in pairwise(radii))
    assert count_votes(90, 100, 0.5, ALPHA).radius == pytest.approx(
        2 * count_votes(90, 100, 0.25, ALPHA).radius
    )


@pytest.mark.parametrize("alpha", [0.5, 0.25, 0.05, 0.001, 1e-6])
def test_fewer_than_the_fewest_votes_can_prove_nothing(alpha):
    fewest = fewest_votes(alpha)
    assert count_votes(fewest, fewest, 1.0, alpha).radius > 0
    assert fewest == 1 or count_votes(fewest - 1, fewest - 1, 1.0, alpha).radius == 0


@pytest.mark.parametrize("margin", [0.2, 0.5, 1.0])
def test_the_radius_of_a_half_space_is_wrong_no_oftener_than_alpha(margin):
    """The true radius is the distance to the plane. 4000 runs at alpha = 0.05.

    More than 260 failures of 4000 are 4.3 deviations: one false alarm in 100,000.
    """
    sigma, alpha, runs, votes = 0.5, 0.05, 4000, 60
    rng = np.random.default_rng(5)
    agreeing = rng.binomial(votes, norm.cdf(margin / sigma), size=runs)
    radii = np.array([count_votes(int(k), votes, sigma, alpha).radius for k in agreeing])
    assert (radii > margin).sum() <= 260
    assert (radii > 0).any()


def test_a_bound_of_one_is_never_reached():
    assert math.isfinite(count_votes(10**6, 10**6, 1.0, ALPHA).radius)
