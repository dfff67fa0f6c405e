"""Blocks of features: the unit of memory in which a job's samples are reduced."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import eigh

Floats = NDArray[np.float64]

# Features of one block: exact statistics up to this many samples for pooled features, fewer rows
# for token maps so that a block stays within the budget.
_BLOCK_ROWS = 1024
_BLOCK_BYTES = 64 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Block:
    """Features of one block, float32 [rows, d], and the unit direction u, [d]."""

    rows: NDArray[np.float32]
    direction: Floats


def block_rows(dimensions: int) -> int:
    """Samples in a block: a function of the feature size alone, fixed before any is drawn."""
    return max(2, min(_BLOCK_ROWS, _BLOCK_BYTES // (4 * dimensions)))


def measure(block: Block) -> float:
    """Largest eigenvalue of the sum of h_i h_i^T over a block, rounded up.

    The smaller of the Gram and the covariance matrix is factorised; both share it.
    """
    h = orthogonal_parts(block.rows, block.direction)
    matrix = h @ h.T if h.shape[0] <= h.shape[1] else h.T @ h
    last = matrix.shape[0] - 1
    top = eigh(matrix, eigvals_only=True, subset_by_index=(last, last), check_finite=False)[0]
    # LAPACK's error is a modest multiple of machine precision times the trace.
    return float(max(top, 0.0) + 1e-12 * np.trace(matrix))


def orthogonal_parts(rows: NDArray[np.float32], direction: Floats) -> Floats:
    """h_i = f_i - <u, f_i>·u of unit features, float32 [m, d] -> float64 [m, d]."""
    features = unit_rows(rows)
    return features - (features @ direction)[:, None] * direction


def unit_rows(features: NDArray[np.float32]) -> Floats:
    """Float32 unit vectors [m, d] with their rounding taken out, in float64."""
    exact = features.astype(np.float64)
    exact /= np.linalg.norm(exact, axis=1, keepdims=True)
    return exact
