"""Event B: an upper confidence bound of lambda, the largest eigenvalue of E hh^T, by betting.

While the whole sample fits in one block the bound is a wager on the fixed top direction
(docs/certificate.md, "B"); with more samples, the Chernoff bound of the blocks' mean eigenvalue.
The search for the bound may use estimates; what is returned was verified by a Cholesky
factorisation, so that it is never too small.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import eigh
from scipy.linalg.lapack import dpotrf
from scipy.optimize import brentq
from scipy.sparse.linalg import ArpackError, eigsh

from service.certificate.evidence import Gram
from service.certificate.intervals import kl_upper

Floats = NDArray[np.float64]

# Share of the largest stake at which no outcome ruins the capital; 0.97 needed fewest samples.
_STAKE = 0.97
_SMALLEST, _LARGEST = 1e-9, 0.999
_USUAL_SHARE = 0.3  # of lambda in the mean of ‖h‖²
_LANCZOS_FROM = 200  # below, a dense eigenvalue is faster
_ROUNDING = 1e-11


def second_moment_upper(sample: "Floats | Gram | float", samples: int, alpha: float) -> float:
    """lambda+: above the true lambda except with probability alpha.

    Args:
        sample: all h_i, [n, d], or their inner products; or, when they did not fit in one block,
            the mean over blocks of the largest eigenvalue, which is never below that of the whole.
        samples: n.
        alpha: level of event B.
    """
    log_inverse = math.log(1 / alpha)
    if isinstance(sample, float):
        return kl_upper(min(sample, 1.0), log_inverse / samples)
    if isinstance(sample, Gram):
        return _betting_upper(_Wide(sample.matrix), log_inverse)
    wide = len(sample) <= sample.shape[1]
    form = _Wide(sample @ sample.T) if wide else _Narrow(sample)
    return _betting_upper(form, log_inverse)


@dataclass(frozen=True, slots=True)
class _Wide:
    """Weighted sums of h_i h_i^T through the n x n Gram matrix."""

    gram: Floats

    def radii(self) -> Floats:
        return np.asarray(np.diag(self.gram))

    def weighted(self, prices: Floats) -> Floats:
        """A matrix with the eigenvalues of sum c_i h_i h_i^T."""
        root = np.sqrt(prices)
        return np.asarray(self.gram * root * root[:, None])

    def squares(self, prices: Floats, vector: Floats) -> Floats:
        """<w, h_i>² of the unit w that goes with an eigenvector of `weighted`."""
        shares = np.sqrt(prices) * vector
        along = self.gram @ shares
        return np.asarray(along**2 / max(float(shares @ along), 1e-300))


@dataclass(frozen=True, slots=True)
class _Narrow:
    """The same through the d x d matrix itself."""

    h: Floats

    def radii(self) -> Floats:
        return np.asarray(np.einsum("ij,ij->i", self.h, self.h))

    def weighted(self, prices: Floats) -> Floats:
        rows = self.h * np.sqrt(prices)[:, None]
        return np.asarray(rows.T @ rows)

    def squares(self, prices: Floats, vector: Floats) -> Floats:
        return np.asarray((self.h @ vector) ** 2)


def _betting_upper(sample: "_Wide | _Narrow", log_inverse: float) -> float:
    radii = np.minimum(sample.radii(), 1.0)
    n = len(radii)
    # The top direction hardly depends on the lambda that it is sought for.
    guess = min(max(_USUAL_SHARE * float(radii.mean()), _SMALLEST), _LARGEST)
    prices = _prices(guess, radii)
    squares = sample.squares(prices, _top_vector(sample.weighted(prices)))
    found = _smallest_rejected(radii, squares, log_inverse)
    for step in range(14):
        candidate = found * (1 + 1e-4 * 2.0**step)
        if candidate >= _LARGEST:
            break
        matrix = sample.weighted(_prices(candidate, radii))
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
