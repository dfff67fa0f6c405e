import math

import numpy as np
import pytest
from scipy.optimize import minimize_scalar
from scipy.stats import norm

from service.certificate.choice import cells, choose
from service.certificate.ratio import likelihood_ratio
from tests.certificate.test_wager import disk, payoff, projections, wager_of


@pytest.mark.parametrize("bound", [0.5, 0.9, 0.98])
@pytest.mark.parametrize("shift", [0.0, 0.25, 0.5, 1.0, 2.0])
def test_no_law_for_which_the_claim_is_true_pays_more_than_the_price(shift, bound):
    """The dearest such law, by its dual on grids of its own: min over β of E max[βΛG + e]."""
    wager = wager_of(shift, bound)
    theta = math.acos(bound)
    s, y = disk()
    s, y = (
        np.append(s, np.repeat(wager.starts, 200)),
        np.append(
            y,
            np.concatenate([np.linspace(-1, 1, 200) * math.sqrt(1 - t * t) for t in wager.starts]),
        ),
    )
    g, e = y * math.cos(theta) - s * math.sin(theta), payoff(wager, s, y)
    z = norm.ppf((np.arange(400) + 0.5) / 400)
    ratio = np.exp(shift * z - shift * shift / 2)
    ratio /= ratio.mean()

    def dual(log_beta):
        return np.mean([np.max(math.exp(log_beta) * v * g + e) for v in ratio])

    dearest = minimize_scalar(dual, bounds=(-9, 3), method="bounded").fun
    assert dearest <= math.exp(wager.log_price) * (1 + 1e-6)
    assert math.exp(wager.log_price) <= dearest * 1.02  # and the price is not padded


def test_a_narrow_law_is_forecast_to_grow_and_a_hopeless_claim_is_not():
    assert wager_of(0.5, 0.9).forecast > 0.08
    assert wager_of(3.0, 0.99).forecast < 1e-3


def test_the_forecast_is_the_growth_on_samples_like_those_seen():
    wager = wager_of(0.5, 0.9, second_moment=0.02, mean=0.0, n=2000)
    terms = wager.terms(projections(seed=1, n=20_000))
    growth = terms.constant.mean() - terms.quadratic.mean() * 0.02
    assert growth == pytest.approx(wager.forecast, rel=0.05)


def test_cells_start_below_what_was_seen_and_never_below_zero():
    seen = projections()
    starts = cells(seen)
    assert (np.diff(starts) > 0).all()
    assert starts[0] < starts[1] < seen.min()
    assert (cells(np.linspace(-0.5, 0.5, 100)) >= 0).all()


def test_nothing_is_wagered_on_features_that_point_away():
    assert choose(np.full(50, -0.5), 0.1, 0.1, likelihood_ratio(0.5), 0.4) is None


def test_samples_below_every_cell_are_paid_more_the_more_there_are():
    rare, often = projections(n=300), projections(n=300)
    often[:15] = -0.5
    ratio = likelihood_ratio(0.5)
    one = choose(rare, 0.02, 0.04, ratio, math.acos(0.9))
    two = choose(often, 0.02, 0.04, ratio, math.acos(0.9))
    assert one.floor < two.floor
    assert two.forecast < one.forecast
