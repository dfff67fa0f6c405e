"""The pursuit on closed forms. Binomial tests have a false-alarm rate of 1e-6 each."""

import math

import numpy as np
import pytest
from scipy.stats import binom

from service.certificate.evidence import Selection
from service.certificate.pursuit import Pursuit
from tests.certificate.closed_form import rotation, rotation_truth, step, step_truth

ALPHA = 0.2
TRIALS = 60
MOST_FAILURES = int(binom.isf(1e-6, TRIALS, ALPHA))
LOOKS = (48, 64, 96, 128, 192, 256)


def selected(rows):
    rows = rows.astype(np.float64)
    u = rows.mean(0) / np.linalg.norm(rows.mean(0))
    others = rows.sum(0) - rows
    others /= np.linalg.norm(others, axis=1, keepdims=True)
    orthogonal = rows - (rows @ u)[:, None] * u
    return u, Selection((rows * others).sum(1), orthogonal, len(rows))


def pursue(u, selection, rows, shift, bound, alpha, looks=LOOKS, block=10**6):
    """The first look at which the target is certified, or None."""
    pursuit = Pursuit(shift, bound, alpha, selection)
    s = rows.astype(np.float64) @ u
    h = rows - s[:, None] * u
    for n in looks:
        while n - pursuit.settled_samples >= block:
            end = pursuit.settled_samples + block
            pursuit.extend(h[end - block : end], s[:end])
            pursuit.settle()
        pursuit.extend(h[pursuit.settled_samples : n], s[:n])
        if pursuit.reached:
            return n
        pursuit.choose_again(s[:n])
    return None


@pytest.mark.parametrize(
    ("c", "block"),
    [
        (0.1, 10**6),
        (0.4, 40),
        pytest.param(0.1, 40, marks=pytest.mark.long),
        pytest.param(0.4, 10**6, marks=pytest.mark.long),
    ],
)
def test_a_false_target_of_a_rotation_is_certified_in_at_most_alpha(c, block):
    rng = np.random.default_rng([31, int(10 * c), block])
    wrong = 0
    for _ in range(TRIALS):
        u, selection = selected(rotation(rng, 40, c, 1))
        truth = rotation_truth(u, c, 1, 0.5)
        rows = rotation(rng, LOOKS[-1], c, 1)
        wrong += pursue(u, selection, rows, 0.5, truth + 1e-9, ALPHA, block=block) is not None
    assert wrong <= MOST_FAILURES


@pytest.mark.parametrize(("edge", "half"), [(2.0, 0.7), (1.0, 1.0), (2.5, 1.2)])
def test_a_false_target_of_a_step_is_certified_in_at_most_alpha(edge, half):
    rng = np.random.default_rng([32, int(10 * edge)])
    wrong = 0
    for _ in range(TRIALS):
        u, selection = selected(step(rng, 40, edge, half))
        truth = step_truth(u, edge, half, 1.0)
        if not 0 < truth < 1 - 1e-6:
            continue
        rows = step(rng, LOOKS[-1], edge, half)
        wrong += pursue(u, selection, rows, 1.0, truth + 1e-9, ALPHA) is not None
    assert wrong <= MOST_FAILURES


def test_a_step_that_no_sample_shows_is_allowed_for():
    """All samples alike: what was unseen may still have probability ln(1/alpha)/n."""
    rows = np.array([[1.0, 0.0, 0.0]], np.float32).repeat(LOOKS[-1], 0)
    u, selection = selected(rows[:50])
    for shift, bound in ((0.5, 0.9), (1.0, 0.9), (1.0, 0.97)):
        n = pursue(u, selection, rows, shift, bound, 0.001, looks=range(8, 256, 4))
        sine = math.sin(math.acos(bound))
        # the rarest event that, at G = 1 and made likelier by the shift, undoes the claim
        from scipy.stats import norm

        rare = norm.cdf(norm.ppf(sine / (1 + sine)) - shift)
        fewest = math.log(1000) / -math.log1p(-rare)
        assert n is None or n >= fewest
        assert n is not None
        assert n <= 1.25 * fewest + 8


def test_blocks_cost_tightness_only():
    rng = np.random.default_rng(33)
    u, selection = selected(rotation(rng, 60, 0.2, 1))
    rows = rotation(rng, LOOKS[-1], 0.2, 1)
    whole, blocks = (
        Pursuit(0.5, 0.9, 0.001, selection),
        Pursuit(0.5, 0.9, 0.001, selection),
    )
    s = rows.astype(np.float64) @ u
    h = rows - s[:, None] * u
    whole.extend(h, s)
    for end in range(32, 257, 32):
        blocks.extend(h[end - 32 : end], s[:end])
        blocks.settle()
    assert 0 < blocks.log_capital <= whole.log_capital + 1e-9


def test_hopeless_only_when_even_perfect_samples_or_the_forecast_fall_short():
    rng = np.random.default_rng(34)
    _, selection = selected(rotation(rng, 60, 0.1, 1))
    far = Pursuit(5.0, 0.9, 0.001, selection)
    assert far.hopeless(10**9)  # beyond the largest shift nothing is ever certified
    near = Pursuit(0.5, 0.9, 0.001, selection)
    assert not near.hopeless(100)
    assert near.hopeless(20)  # even perfect samples grow too slowly


def test_a_pursuit_without_usable_selection_starts_when_it_has_seen_enough():
    rng = np.random.default_rng(35)
    u, selection = selected(rotation(rng, 3, 0.1, 1))
    rows = rotation(rng, 400, 0.1, 1)
    assert pursue(u, selection, rows, 0.3, 0.7, 0.001, looks=(64, 128, 256, 400)) in (
        128,
        256,
        400,
    )
