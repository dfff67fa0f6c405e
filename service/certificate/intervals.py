"""Confidence bounds of one probability or one bounded mean, rounded to the safe side.

`alpha` is everywhere the probability that the bound is wrong, over the samples.
"""

import math

from scipy.optimize import brentq
from scipy.stats import beta

# Root finders stop within 1e-14 of the root; this is added on the sound side.
_ROUNDING = 1e-12


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


def clopper_pearson_lower(successes: int, trials: int, alpha: float) -> float:
    """Exact lower confidence bound of a probability (Clopper & Pearson, 1934).

    Returns:
        p such that P(Binomial(trials, p) >= successes) = alpha; 0 if there was no success.
    """
    if successes == 0:
        return 0.0
    return max(0.0, float(beta.ppf(alpha, successes, trials - successes + 1)) - _ROUNDING)
