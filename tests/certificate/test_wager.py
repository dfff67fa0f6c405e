import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.certificate.choice import choose
from service.certificate.ratio import likelihood_ratio


def projections(seed=0, n=150, where=0.9, width=0.03):
    rng = np.random.default_rng(seed)
    return np.clip(where + width * rng.normal(size=n), -1, 1)


def wager_of(shift=0.5, bound=0.9, second_moment=0.02, mean=0.04, **law):
    ratio = likelihood_ratio(shift)
    return choose(projections(**law), second_moment, mean, ratio, math.acos(bound))


def payoff(wager, s, y):
    cell = np.searchsorted(wager.starts, s, side="right") - 1
    inside = wager.payoffs[cell] - wager.quadratic * y * y - wager.linear * y
    return np.where(cell >= 0, inside, wager.floor)


def disk(points=121):
    axis = np.linspace(-1, 1, points)
    s, y = np.meshgrid(axis, axis)
    inside = s * s + y * y <= 1
    ring = np.linspace(0, 2 * math.pi, 1001)
    return np.append(s[inside], np.sin(ring)), np.append(y[inside], np.cos(ring))


@pytest.mark.parametrize(("shift", "bound"), [(0.5, 0.9), (1.0, 0.9), (1.0, 0.6), (2.0, 0.3)])
def test_the_payoff_is_never_negative(shift, bound):
    wager = wager_of(shift, bound)
    s, y = disk()
    assert payoff(wager, s, y).min() > 0


@settings(max_examples=60, deadline=None)
@given(
    st.floats(0.1, 2),
    st.floats(0.3, 0.99),
    st.floats(0.001, 0.3),
    st.floats(0.3, 0.98),
    st.floats(-1, 1),
)
def test_terms_bound_the_log_payoff_from_below(shift, bound, second_moment, where, s):
    wager = wager_of(shift, bound, second_moment, where=where)
    terms = wager.terms(np.array([s]))
    y = np.linspace(-1, 1, 101) * math.sqrt(1 - s * s)
    lower = terms.constant - terms.linear * y - terms.quadratic * y * y
    exact = np.log(payoff(wager, np.full_like(y, s), y)) - wager.log_price
    assert (lower <= exact + 1e-9).all()
    assert lower[50] == pytest.approx(exact[50], abs=1e-9)
