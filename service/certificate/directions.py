"""The worst direction: an upper bound of Σ c_i⟨w,h_i⟩² + d_i⟨w,h_i⟩ over all unit vectors w.

With C = Σ c_i h_i h_iᵀ and D = Σ d_i h_i, Lagrange duality bounds it by τ + Dᵀ(τI - C)⁻¹D/4 for any
τ above the largest eigenvalue of C. A Lanczos recursion proposes τ; a Cholesky factorisation of
τI - C proves that it is above, and gives the value. All in terms of the Gram matrix of the h_i, so
that the cost is that of the samples, not of the feature.
"""

import math

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import eigh_tridiagonal
from scipy.linalg.lapack import dpotrf, dpotrs
from scipy.optimize import minimize_scalar

from service.certificate.evidence import Gram

Floats = NDArray[np.float64]

_STEPS = 32  # of the recursion; more cost time and gain nothing
_GROWTHS = (1.0, 1.003, 1.01, 1.03, 1.1, 1.3, 2.0)  # of τ until the factorisation succeeds
_ROUNDING = 1e-11


def worst_direction(gram: Floats, quadratic: Floats, linear: Floats) -> float:
    """Upper bound of the maximum over unit w, rounded up.

    Args:
        gram: <h_i, h_j>, [n, n].
        quadratic: c_i >= 0, [n].
        linear: d_i, [n].
    """
    root = np.sqrt(quadratic)
    matrix = gram * root * root[:, None]
    pull = gram @ linear
    square = max(float(linear @ pull), 0.0)  # ‖D‖²
    right = root * pull
    trace = float(np.trace(matrix))
    if trace <= 0:
        return math.sqrt(square)
    ritz, weights = _lanczos(matrix, right)

    def value(gap: float) -> float:
        tau = float(ritz[-1]) + math.exp(gap)
        return tau + (square + float(np.sum(weights / (tau - ritz)))) / (4 * tau)

    gap = float(minimize_scalar(value, bounds=(math.log(1e-6 * trace), 3.0), method="bounded").x)
    proposed = float(ritz[-1]) + math.exp(gap)
    for growth in _GROWTHS:
        tau = proposed * growth
        shifted = -matrix
        shifted[np.diag_indices_from(shifted)] += tau - _ROUNDING * trace
        factor, info = dpotrf(shifted, overwrite_a=True)
        if info == 0:
            solution, _ = dpotrs(factor, right)
            bound = tau + (square + float(right @ solution)) / (4 * tau)
            return bound * (1 + 1e-8) + _ROUNDING
    return float(trace + math.sqrt(square))


def top_upper(gram: Gram) -> float:
    """Upper bound of the largest eigenvalue of Σ h_i h_iᵀ, rounded up."""
    samples = len(gram.matrix)
    return worst_direction(gram.matrix, np.ones(samples), np.zeros(samples))


def top_eigenvalue(gram: Floats) -> float:
    """An estimate of the largest eigenvalue, good enough to plan with; never too large."""
    if float(np.trace(gram)) <= 0:
        return 0.0
    ritz, _ = _lanczos(gram, np.sqrt(np.maximum(np.diag(gram), 0.0)))
    return float(ritz[-1])


def _lanczos(matrix: Floats, right: Floats) -> tuple[Floats, Floats]:
    """Ritz values, rising, and the squared components of `right` along them."""
    size = len(matrix)
    pulled = float(np.abs(right).max()) > 0
    start = right if pulled else np.sqrt(np.diag(matrix))
    start = start / np.abs(start).max()  # the squares of what is below 1e-150 are not numbers
    norm = float(np.linalg.norm(start))
    basis = np.empty((min(_STEPS, size), size))
    diagonal, beside = [], []
    rounding = 1e-12 * float(np.trace(matrix)) + 1e-300
    vector = start / norm
    for k in range(len(basis)):
        basis[k] = vector
        image = matrix @ vector
        diagonal.append(float(image @ vector))
        image -= basis[: k + 1].T @ (basis[: k + 1] @ image)
        image -= basis[: k + 1].T @ (basis[: k + 1] @ image)
        length = float(np.linalg.norm(image))
        if length < rounding:
            break
        beside.append(length)
        vector = image / length
    ritz, vectors = eigh_tridiagonal(diagonal, beside[: len(diagonal) - 1])
    along = float(right @ right) if pulled else 0.0
    return np.asarray(ritz), along * vectors[0] ** 2
