"""Confidence bounds of one probability or one bounded mean, rounded to the safe side.

`alpha` is everywhere the probability that the bound is wrong, over the samples.
"""

import math

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.special import betaincinv

Floats = NDArray[np.float64]

# Root finders stop within 1e-14 of the root; this is added on the sound side.
_ROUNDING = 1e-12
_BETTING_STAKE = 0.75  # of the largest at which no value ruins the capital


def kl(p: float, q: float) -> float:
    """Kullback-Leibler divergence of two Bernoulli laws, in nats; p in [0, 1], q in (0, 1)."""
    head = p * math.log(p / q) if p > 0 else 0.0
    tail = (1 - p) * math.log((1 - p) / (1 - q)) if p < 1 else 0.0
    return head + tail


def kl_upper(mean: float, rate: float) -> float:
    """Largest q with kl(mean‖q) <= rate: the Chernoff upper bound of a mean of [0, 1] variables.

    Args:
        mean: sample mean, or anything never smaller; in [0, 1].
        rate: ln(1/alpha) / n.

    Returns:
        q in [mean, 1]; the true mean is above it with probability at most alpha.
    """
    if mean >= 1:
        return 1.0
    last = math.nextafter(1.0, 0.0)
    if kl(mean, last) <= rate:
        return 1.0
    if rate <= 0:
        return mean
    start = mean if mean > 0 else 5e-324
    root = brentq(lambda q: kl(mean, q) - rate, start, last, xtol=1e-14)
    return min(1.0, float(root) + _ROUNDING)


def kl_lower(mean: float, rate: float) -> float:
    """Smallest q with kl(mean‖q) <= rate: the lower bound that goes with `kl_upper`."""
    return max(0.0, 1.0 - kl_upper(1.0 - mean, rate))


def betting_lower(values: Floats, alpha: float) -> float:
    """Lower confidence bound of a mean, valid at every length of the sample at once.

    Hedged capital with predictable stakes (Waudby-Smith & Ramdas, 2024, "Estimating means of
    bounded random variables by betting", theorem 3). Each factor falls with the candidate mean.

    Args:
        values: in [0, 1], in the order drawn, [n].
        alpha: the mean is below the bound, at any n, with probability at most this.
    """
    steps = np.arange(1, len(values) + 1)
    means = (0.5 + np.cumsum(values)) / (steps + 1)
    variances = (0.25 + np.cumsum((values - means) ** 2)) / (steps + 1)
    before = np.concatenate([[0.25], variances[:-1]])
    stakes = np.sqrt(2 * math.log(1 / alpha) / (before * steps * np.log1p(steps)))

    def excess(mean: float) -> float:
        factors = np.minimum(stakes, _BETTING_STAKE / mean) * (values - mean)
        return float(np.log1p(factors).cumsum().max()) - math.log(1 / alpha)

    low, high = 1e-9, float(values.mean())
    if high <= low or excess(low) < 0:
        return 0.0
    if excess(high) >= 0:
        return max(0.0, high - _ROUNDING)
    return max(0.0, float(brentq(excess, low, high, xtol=1e-9)) - 2e-9)


def clopper_pearson_lower(successes: int, trials: int, alpha: float) -> float:
    """Exact lower confidence bound of a probability (Clopper & Pearson, 1934).

    Returns:
        p such that P(Binomial(trials, p) >= successes) = alpha; 0 if there was no success.
    """
    if successes == 0:
        return 0.0
    return max(0.0, float(betaincinv(successes, trials - successes + 1, alpha)) - _ROUNDING)
