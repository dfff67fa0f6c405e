"""Event B: an upper confidence bound of lambda, the largest eigenvalue of E hh^T, by betting.

While the whole sample fits in one block the bound is a wager on the fixed top direction
(docs/certificate.md, "B"); with more samples, the Chernoff bound of the blocks' mean eigenvalue.
The search for the bound may use estimates; what is returned was verified by a Cholesky
factorisation, so that it is never too small.
"""

import math

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import eigh
from scipy.linalg.lapack import dpotrf
from scipy.optimize import brentq
from scipy.sparse.linalg import ArpackError, eigsh

from service.certificate.intervals import kl_upper

Floats = NDArray[np.float64]

# Share of the largest stake at which no outcome ruins the capital; 0.97 needed fewest samples.
_STAKE = 0.97
_SMALLEST, _LARGEST = 1e-9, 0.999
_USUAL_SHARE = 0.3  # of lambda in the mean of ‖h‖²
_LANCZOS_FROM = 200  # below, a dense eigenvalue is faster
_ROUNDING = 1e-11


def second_moment_upper(sample: "Floats | float", samples: int, alpha: float) -> float:
    """lambda+: above the true lambda except with probability alpha.

    Args:
        sample: all h_i, [n, d]; or, when they did not fit in one block, the mean over blocks of
            the largest eigenvalue, which is never below that of the whole.
        samples: n.
        alpha: level of event B.
    """
    log_inverse = math.log(1 / alpha)
    if isinstance(sample, float):
        return kl_upper(min(sample, 1.0), log_inverse / samples)
    return _betting_upper(sample, log_inverse)


def _betting_upper(h: Floats, log_inverse: float) -> float:
    n = len(h)
    radii = np.minimum(np.einsum("ij,ij->i", h, h), 1.0)
    wide = n <= h.shape[1]
    gram = h @ h.T if wide else h.T @ h
    # The top direction hardly depends on the lambda that it is sought for.
    guess = min(max(_USUAL_SHARE * float(radii.mean()), _SMALLEST), _LARGEST)
    prices = _prices(guess, radii)
    top = _top_vector(_weighted(gram, h, prices, wide))
    direction = h.T @ (np.sqrt(prices) * top) if wide else top
    squares = (h @ (direction / max(float(np.linalg.norm(direction)), 1e-300))) ** 2
    found = _smallest_rejected(radii, squares, log_inverse)
    for step in range(14):
        candidate = found * (1 + 1e-4 * 2.0**step)
        if candidate >= _LARGEST:
            break
        prices = _prices(candidate, radii)
        matrix = _weighted(gram, h, prices, wide)
        limit = n * math.log1p(_stake(candidate) * candidate) - log_inverse
        if _is_below(matrix, limit):
            return candidate
    return 1.0


def _stake(value: float) -> float:
    return _STAKE / (1 - value)


def _prices(value: float, radii: Floats) -> Floats:
    """c_i: slope of the chord of ln(1 + stake·(lambda - x)) over x in [0, ‖h_i‖²]."""
    stake = _stake(value)
    full = math.log1p(stake * value)
    safe = np.maximum(radii, 1e-12)
    return np.asarray((full - np.log1p(stake * (value - safe))) / safe)


def _smallest_rejected(radii: Floats, squares: Floats, log_inverse: float) -> float:
    """Where the wager would reach 1/alpha, if `squares` were those of the worst direction."""
    n = len(radii)

    def wealth(value: float) -> float:
        gain = n * math.log1p(_stake(value) * value)
        return gain - float(_prices(value, radii) @ squares) - log_inverse

    if wealth(_LARGEST) <= 0:
        return _LARGEST
    if wealth(_SMALLEST) >= 0:
        return _SMALLEST
    return float(brentq(wealth, _SMALLEST, _LARGEST, xtol=1e-12, rtol=1e-6))


def _weighted(gram: Floats, h: Floats, prices: Floats, wide: bool) -> Floats:
    """A matrix with the eigenvalues of sum c_i h_i h_i^T: the smaller of two forms."""
    if wide:
        root = np.sqrt(prices)
        return np.asarray(gram * root * root[:, None])
    rows = h * np.sqrt(prices)[:, None]
    return np.asarray(rows.T @ rows)


def _top_vector(matrix: Floats) -> Floats:
    """An estimate, good enough to search with."""
    size = len(matrix)
    if size >= _LANCZOS_FROM:
        try:
            _, vectors = eigsh(matrix, k=1, v0=np.ones(size), tol=1e-3, maxiter=50)
            return np.asarray(vectors[:, 0])
        except ArpackError:
            pass
    _, vectors = eigh(matrix, subset_by_index=(size - 1, size - 1), check_finite=False)
    return np.asarray(vectors[:, 0])


def _is_below(matrix: Floats, limit: float) -> bool:
    """Whether every eigenvalue is below `limit`: limit·I - matrix has a Cholesky factor."""
    rest = -matrix
    rest[np.diag_indices_from(rest)] += limit - _ROUNDING * float(np.trace(matrix))
    _, info = dpotrf(rest, overwrite_a=True)
    return bool(info == 0)
