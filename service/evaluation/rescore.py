"""An upper confidence bound on cos(u, F(x')) from fresh features: what convicts a certificate.

Let a = <u, F> and b = ‖F - a·u‖. The cosine a / sqrt(a² + b²) rises with a and falls with b, so it
is at most that of an upper bound on a and a lower bound on b, each at alpha/2. For b, any unit
w ⟂ u fixed beforehand has <w, F> <= b; w is the direction seen in a pilot quarter of the features,
and all else comes from the other three quarters. Both are means of independent values in [-1, 1],
bounded by betting.
"""

import math

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq

Floats = NDArray[np.float64]

_LARGEST_STAKE = 0.97


def cosine_upper(features: NDArray[np.float32], u: NDArray[np.float32], alpha: float) -> float:
    """At least cos(u, E f) with probability 1 - alpha over independent unit features f.

    Args:
        features: [n, d]; they must not have helped to choose x'.
        u: fixed unit vector, [d].
        alpha: spent in halves on <u, E f> and on the part orthogonal to u.
    """
    exact, direction = _exact(features), _exact(u[None])[0]
    along = exact @ direction
    across = exact - along[:, None] * direction
    pilot = len(exact) // 4
    w = across[:pilot].mean(0)
    w -= (w @ direction) * direction
    w /= max(float(np.linalg.norm(w)), 1e-300)
    seen = across @ w
    a = -mean_lower(-along[pilot:], -along[:pilot], alpha / 2)
    b = max(mean_lower(seen[pilot:], seen[:pilot], alpha / 2), 0.0)
    return a / math.hypot(a, b) if a > 0 else 0.0


def mean_lower(values: Floats, pilot: Floats, alpha: float) -> float:
    """At most the mean with probability 1 - alpha: betting with a fixed stake.

    With X = (1 + value) / 2 in [0, 1] and a stake c(m) <= 0.97/m fixed by the pilot, the capital
    M(m) = prod(1 + c(m)(X_i - m)) is positive and its mean is 1 at the true m, so
    P(M >= 1/alpha) <= alpha there (Markov; Waudby-Smith & Ramdas 2024, arXiv:2010.09686). M falls
    with m, so every m at which M >= 1/alpha is rejected at once.

    Args:
        values: independent, in [-1, 1], [n].
        pilot: values of the same law, independent of `values`; they set the stake alone.
        alpha: in (0, 1).
    """
    x = (1 + np.clip(values, -1.0, 1.0)) / 2
    goal = math.log(1 / alpha)
    spread = max(float(np.var((1 + pilot) / 2)), 1e-6)
    stake = math.sqrt(2 * goal / (len(x) * spread))

    def excess(m: float) -> float:
        bet = min(stake, _LARGEST_STAKE / m)
        return float(np.log1p(bet * (x - m)).sum()) - goal

    low, high = 1e-9, float(np.clip(x.mean(), 2e-9, 1.0))
    if excess(low) <= 0:
        return -1.0
    # At the sample mean nobody has won: a sum of logarithms is at most that of their mean, 0.
    return 2 * (float(brentq(excess, low, high, xtol=1e-12)) - 1e-11) - 1


def cosine_estimate(features: NDArray[np.float32], u: NDArray[np.float32]) -> float:
    """cos(u, E f) without the bias of a finite mean: E‖mean‖² = ‖E f‖² + (1 - ‖E f‖²)/n."""
    n = len(features)
    mean = _exact(features).mean(0)
    square = (n * float(mean @ mean) - 1) / (n - 1)
    along = float(mean @ _exact(u[None])[0])
    return float(np.clip(along / math.sqrt(max(square, 1e-12)), -1.0, 1.0))


def _exact(features: NDArray[np.float32]) -> Floats:
    """Float32 unit vectors [m, d] with their rounding taken out, in float64."""
    exact = features.astype(np.float64)
    exact /= np.linalg.norm(exact, axis=1, keepdims=True)
    return exact
