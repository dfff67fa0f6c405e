"""One picture's samples, reduced as they arrive: {s_i, c_i, sum of h, block eigenvalues}.

Memory is that of one block of features, whatever the number of samples. The eigenvalue of a full
block costs a matrix factorisation, so the block is handed out (`add` returns it) for a statistics
worker to `measure` and `absorb`; the thread that adds never waits for linear algebra.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import eigh

from service.certificate.bounds import Floats
from service.types import Stage

# Features of one block: exact statistics up to this many samples for pooled features, fewer rows
# for token maps so that a block stays within the budget.
_BLOCK_ROWS = 1024
_BLOCK_BYTES = 64 * 1024 * 1024

# Where the law of s is probed: far below the selection sample, at its minimum, and its quantiles.
_QUANTILES = (0.0, 0.02, 0.196, 0.372, 0.548, 0.724, 0.9)
_BELOW_MINIMUM = 3.0
# With fewer selection samples than this their quantiles say nothing, and fixed places do better.
_FEWEST_FOR_QUANTILES = 5
_FIXED_THRESHOLDS = (0.0, 0.3, 0.5, 0.65, 0.75, 0.85, 0.92, 0.97)
# Below any rounding of s: with identical features a threshold must not fall just above them all.
_ROUNDING = 1e-12


@dataclass(frozen=True, slots=True)
class Block:
    """Features of one block, float32 [rows, d], and the unit direction u, [d]."""

    rows: NDArray[np.float32]
    direction: Floats


@dataclass(frozen=True, slots=True)
class Evidence:
    """All that the certificate needs to know of the samples.

    Attributes:
        embedding: u as served, float32 [d], unit norm to float32 precision.
        thresholds: where event A probes the law of s; they depend on the selection sample only.
        projections: s_i = <u, f_i> of the estimation sample, [n], in [-1, 1].
        reference_cosines: <f(x), f_i> of the estimation sample, [n].
        mean_norm: norm of the mean of h_i.
        spectrum: all h_i, [n, d], while they fit in one block; else the mean over blocks of each
            block's largest eigenvalue, which is never below that of the whole sample.
        fidelity: <u, f(x)>.
        selection: n0.
    """

    embedding: NDArray[np.float32]
    thresholds: Floats
    projections: Floats
    reference_cosines: Floats
    mean_norm: float
    spectrum: "Floats | float"
    fidelity: float
    selection: int


def block_rows(dimensions: int) -> int:
    """Samples in a block: a function of the feature size alone, fixed before any is drawn."""
    return max(2, min(_BLOCK_ROWS, _BLOCK_BYTES // (4 * dimensions)))


def tally_bytes(dimensions: int, selection: int, estimation: int) -> int:
    """Most memory that a tally of this plan holds at a time."""
    rows = min(block_rows(dimensions), max(selection, estimation))
    return 4 * dimensions * rows + 8 * (4 * dimensions + 2 * estimation)


def measure(block: Block) -> float:
    """Largest eigenvalue of the sum of h_i h_i^T over a block, rounded up.

    The smaller of the Gram and the covariance matrix is factorised; both share it.
    """
    h = _orthogonal(block)
    matrix = h @ h.T if h.shape[0] <= h.shape[1] else h.T @ h
    last = matrix.shape[0] - 1
    top = eigh(matrix, eigvals_only=True, subset_by_index=(last, last), check_finite=False)[0]
    # LAPACK's error is a modest multiple of machine precision times the trace.
    return float(max(top, 0.0) + 1e-12 * np.trace(matrix))


class Tally:
    """Features of one job, stage by stage, in the order of their index.

    Args:
        dimensions: d, length of a flattened feature.
        selection: n0, samples whose mean is the embedding.
        estimation: n, samples that certify it; 0 when no certificate is asked.
    """

    def __init__(self, dimensions: int, selection: int, estimation: int) -> None:
        self._block = block_rows(dimensions)
        self._selection = selection
        self._estimation = estimation
        self._reference: Floats | None = None
        self._sum = np.zeros(dimensions)
        self._selected = 0
        self._kept: list[NDArray[np.float32]] = []
        self._kept_rows = 0
        self._embedding: NDArray[np.float32] | None = None
        self._u = np.zeros(dimensions)
        self._thresholds = np.empty(0)
        self._estimated = 0
        self._projections = np.empty(estimation)
        self._cosines = np.empty(estimation)
        self._h_sum = np.zeros(dimensions)
        self._open: NDArray[np.float32] | None = None
        self._open_rows = 0
        self._peaks = 0.0

    @property
    def complete(self) -> bool:
        """Every planned sample has been added."""
        return self._selected == self._selection and self._estimated == self._estimation

    @property
    def embedding(self) -> NDArray[np.float32]:
        """u, the normalised mean of the selection sample, float32 [d]."""
        if self._embedding is None:
            raise RuntimeError("the selection sample is not complete")
        return self._embedding

    def add(self, stage: Stage, features: NDArray[np.float32]) -> list[Block]:
        """Take the next m unit features [m, d] of a stage; return the blocks they filled."""
        if stage is Stage.CLEAN:
            self._reference = _unit(features)[0]
            return []
        if stage is Stage.SELECT:
            self._select(features)
            return []
        return self._estimate(features)

    def absorb(self, peak: float) -> None:
        """Take back the measured eigenvalue of a block (called by one statistics worker)."""
        self._peaks += peak

    def evidence(self) -> Evidence:
        """The finished reduction; the last, partly filled block is measured here."""
        if not self.complete or self._reference is None or self._estimation == 0:
            raise RuntimeError("evidence needs every planned sample and the clean feature")
        n = self._estimation
        spectrum: Floats | float = self._peaks / n
        if self._open is not None:
            last = Block(self._open[: self._open_rows], self._u)
            alone = self._open_rows == n
            spectrum = _orthogonal(last) if alone else (self._peaks + measure(last)) / n
        return Evidence(
            embedding=self.embedding,
            thresholds=self._thresholds,
            projections=self._projections,
            reference_cosines=self._cosines,
            mean_norm=float(np.linalg.norm(self._h_sum)) / n,
            spectrum=spectrum,
            fidelity=float(np.clip(self._u @ self._reference, -1.0, 1.0)),
            selection=self._selection,
        )

    def _select(self, features: NDArray[np.float32]) -> None:
        # Summed one by one: the result must not depend on how samples were packed into batches.
        for feature in _unit(features):
            self._sum += feature
        if (room := self._block - self._kept_rows) > 0:
            self._kept.append(features[:room].copy())
            self._kept_rows += len(features[:room])
        self._selected += len(features)
        if self._selected == self._selection:
            self._fix_embedding()

    def _fix_embedding(self) -> None:
        mean = self._sum
        if np.linalg.norm(mean) == 0:
            mean = np.eye(1, len(mean))[0]  # all cancelled: any fixed direction is sound
        self._embedding = (mean / np.linalg.norm(mean)).astype(np.float32)
        # Certify exactly the direction that is served, float32 rounding included.
        served = self._embedding.astype(np.float64)
        self._u = served / np.linalg.norm(served)
        if self._estimation:
            self._thresholds = _thresholds(self._sum, _unit(np.concatenate(self._kept)))
        self._kept.clear()

    def _estimate(self, features: NDArray[np.float32]) -> list[Block]:
        if self._embedding is None or self._reference is None:
            raise RuntimeError("estimation samples arrived before the selection was complete")
        exact = _unit(features)
        span = slice(self._estimated, self._estimated + len(features))
        projections = np.array([self._u @ feature for feature in exact])
        self._projections[span] = np.clip(projections, -1.0, 1.0)
        cosines = [self._reference @ feature for feature in exact]
        self._cosines[span] = np.clip(cosines, -1.0, 1.0)
        self._estimated += len(features)
        full = []
        for row, feature, projection in zip(features, exact, projections, strict=True):
            self._h_sum += feature - projection * self._u
            if self._open is None:
                rows = min(self._block, self._estimation)
                self._open = np.empty((rows, len(row)), np.float32)
            self._open[self._open_rows] = row
            self._open_rows += 1
            if self._open_rows == self._block < self._estimation:
                full.append(Block(self._open, self._u))
                self._open, self._open_rows = None, 0
        return full


def _orthogonal(block: Block) -> Floats:
    """h_i = f_i - <u, f_i>·u of a block's features."""
    features = _unit(block.rows)
    return features - (features @ block.direction)[:, None] * block.direction


def _unit(features: NDArray[np.float32]) -> Floats:
    """Float32 unit vectors [m, d] with their rounding taken out, in float64."""
    exact = features.astype(np.float64)
    exact /= np.linalg.norm(exact, axis=1, keepdims=True)
    return exact


def _thresholds(total: Floats, features: Floats) -> Floats:
    """Where to probe the law of s: from the selection sample alone.

    Each selected feature is projected on the mean of the *others*; its own part in the mean would
    place the thresholds too high.

    Args:
        total: sum of the selection sample, [d].
        features: the selection sample, or the part of it that was kept, [m, d].
    """
    if len(features) < _FEWEST_FOR_QUANTILES:
        return np.array(_FIXED_THRESHOLDS)
    inner = np.array([total @ feature for feature in features])
    others = np.sqrt(np.maximum(total @ total - 2 * inner + 1, 1e-300))
    projections = (inner - 1) / others
    quantiles = np.quantile(projections, _QUANTILES)
    below = quantiles[0] - _BELOW_MINIMUM * (np.median(projections) - quantiles[0])
    # P(s >= -1) = 1 needs no probing: a threshold there would only spend alpha.
    places = [place for place in (below, *quantiles) if place > -1] or [0.0]
    return np.unique(np.minimum(places, 1.0)) - _ROUNDING
