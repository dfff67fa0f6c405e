"""Which label direction F(x') is nearest to, and how far from x that cannot change.

One picture's features are scored against the directions as they arrive, beside its `Tally`; the
proof is in docs/certificate.md, "Labels and neighbours". Two statistics of a feature f are kept,
both at least -1, with y the label of the embedding and q_c = (t_y - t_c) / |t_y - t_c|:

    near   <f, q_c> for the runner-up c
    rest   the least <f, q_c> of all other labels

Their laws at x bound their means at x' (the same lemma as a(r)); while both stay positive, no label
overtakes y.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from service.certificate.bounds import Floats, law_lower
from service.certificate.certify import survival_lower
from service.types import Stage

# Rows of one matrix product. Always the same shape, so that packing changes no rounding.
_ROWS = 256
# Blocks that may wait unscored for the end of the job: the device thread then scores none of them.
_MOST_WAITING = 8
_KEPT_ROWS = 256  # selected features that place the thresholds
_QUANTILES = (0.0, 0.02, 0.196, 0.372, 0.548, 0.724, 0.9)
_BELOW_MINIMUM = 3.0
_FEWEST_FOR_QUANTILES = 5
_FIXED_THRESHOLDS = (-0.3, -0.1, -0.03, 0.0, 0.01, 0.03, 0.1, 0.2)
_ROUNDING = 1e-9  # far above that of a float64 inner product of unit vectors
_LARGEST_SHIFT = 8.0
_WIDTH = 1e-4  # of the bisection, in shifts
_SAME = 1e-6  # 1 - cosine of two directions that are taken for one
CANDIDATES = 5


@dataclass(frozen=True, slots=True)
class Directions:
    """Distinct labels and their unit directions, float64 [C, d], C >= 2."""

    names: tuple[str, ...]
    vectors: Floats


@dataclass(frozen=True, slots=True)
class LabelFindings:
    """What the samples prove about the label of one picture.

    Attributes:
        candidates: the labels nearest to the embedding, best first, with their cosines.
        radius: l2 distance within which the first candidate provably stays the label of F(x'),
            rounded down; 0 together with `abstained`.
        abstained: not even at x itself is the label of F certain.
    """

    candidates: tuple[tuple[str, float], ...]
    radius: float
    abstained: bool


def same_direction(vectors: Floats) -> tuple[int, int] | None:
    """Two rows of unit vectors [C, d] that are equal or nearly so, the first such pair."""
    for first in range(0, len(vectors), _ROWS):
        cosines = vectors[first : first + _ROWS] @ vectors.T
        rows = np.arange(len(cosines))
        cosines[rows, first + rows] = -1.0
        if cosines.max() > 1 - _SAME:
            row, column = np.unravel_index(int(cosines.argmax()), cosines.shape)
            one, two = first + int(row), int(column)
            return min(one, two), max(one, two)
    return None


def label_tally_bytes(dimensions: int, samples: int) -> int:
    """Most memory that a tally of `samples` estimation features holds at a time."""
    blocks = min(_MOST_WAITING + 1, -(-samples // _ROWS))
    return 4 * dimensions * (_KEPT_ROWS + blocks * _ROWS) + 16 * samples


class LabelTally:
    """The margins of one job's features; memory is that of a few blocks of them.

    Rows are added by one thread. `findings` may be called by another meanwhile: blocks are only
    ever appended, or replaced by their scores.

    Args:
        directions: fixed before any noise is drawn.
    """

    def __init__(self, directions: Directions) -> None:
        self._directions = directions
        self._kept: list[NDArray[np.float32]] = []
        self._kept_rows = 0
        self._contest: _Contest | None = None
        self._blocks: list[NDArray[np.float32] | _Scores] = []
        self._open = np.empty((0, 0), np.float32)
        self._rows = 0
        self._unscored = 0

    @property
    def labels(self) -> int:
        """How many there are to choose among."""
        return len(self._directions.names)

    def add(
        self, stage: Stage, features: NDArray[np.float32], embedding: NDArray[np.float32] | None
    ) -> None:
        """Take the next m unit features [m, d] of a stage.

        Args:
            stage: CLEAN features are ignored.
            features: in the order of their index.
            embedding: u, float32 [d]; needed with the first of the ESTIMATE stage.
        """
        if stage is Stage.SELECT and (room := _KEPT_ROWS - self._kept_rows) > 0:
            self._kept.append(features[:room].copy())
            self._kept_rows += len(features[:room])
        if stage is not Stage.ESTIMATE:
            return
        if self._contest is None:
            if embedding is None:
                raise RuntimeError("estimation samples arrived before the embedding was fixed")
            self._contest = _Contest.between(self._directions.vectors, embedding)
        for row in features:
            at = self._rows % _ROWS
            if at == 0:
                self._open = np.zeros((_ROWS, len(row)), np.float32)
                self._blocks.append(self._open)
            self._open[at] = row
            self._rows += 1
            if at == _ROWS - 1:
                self._score_oldest(self._contest)

    def _score_oldest(self, contest: "_Contest") -> None:
        if len(self._blocks) - self._unscored <= _MOST_WAITING:
            return
        block = self._blocks[self._unscored]
        if isinstance(block, np.ndarray):
            self._blocks[self._unscored] = _Scores(contest.score(self._directions.vectors, block))
        self._unscored += 1

    def findings(self, samples: int, sigma: float, alpha: float) -> LabelFindings:
        """The label and its certified radius from the first `samples` estimation features.

        Args:
            samples: n, fixed beforehand, or the checkpoint at which sampling stopped.
            sigma: noise level; the radius comes in the same unit.
            alpha: probability, over the sampling, that the label's statement may fail.
        """
        contest = self._contest
        if contest is None or not 1 <= samples <= self._rows:
            raise RuntimeError("findings need every estimation sample")
        vectors = self._directions.vectors
        margins = np.concatenate(
            [
                entry.values if isinstance(entry, _Scores) else contest.score(vectors, entry)
                for entry in self._blocks[: -(-samples // _ROWS)]
            ]
        )[:samples]
        selected = contest.score(vectors, np.concatenate(self._kept))
        laws = _laws(selected, margins, alpha)
        shift = _largest_shift(laws)
        order = np.argsort(-contest.cosines, kind="stable")[:CANDIDATES]
        return LabelFindings(
            candidates=tuple((self._directions.names[i], float(contest.cosines[i])) for i in order),
            radius=sigma * (shift or 0.0),
            abstained=shift is None,
        )


@dataclass(frozen=True, slots=True)
class _Scores:
    """The margins of one block, [rows, statistics]."""

    values: Floats


@dataclass(frozen=True, slots=True)
class _Contest:
    """y, its runner-up and the distances |t_y - t_c|: a function of the selection sample alone."""

    cosines: Floats  # of the embedding with every direction
    label: int
    runner_up: int
    distances: Floats  # infinite at the label itself

    @classmethod
    def between(cls, vectors: Floats, embedding: NDArray[np.float32]) -> "_Contest":
        u = embedding.astype(np.float64)
        cosines = vectors @ (u / np.linalg.norm(u))
        label = int(cosines.argmax())
        distances = np.linalg.norm(vectors - vectors[label], axis=1)
        distances[label] = math.inf
        margins = (cosines[label] - cosines) / distances
        margins[label] = math.inf
        return cls(cosines, label, int(margins.argmin()), distances)

    def score(self, vectors: Floats, features: NDArray[np.float32]) -> Floats:
        """Features [m, d] -> near and rest, [m, 2]; near alone, [m, 1], of two labels."""
        exact = features.astype(np.float64)
        # Rows of a block that are still empty are zero; their scores are never read.
        exact /= np.maximum(np.linalg.norm(exact, axis=1, keepdims=True), 1e-300)
        cosines = exact @ vectors.T
        margins = (cosines[:, self.label, None] - cosines) / self.distances
        near = margins[:, self.runner_up].copy()
        if len(vectors) == 2:
            return near[:, None]
        margins[:, [self.label, self.runner_up]] = math.inf
        return np.stack([near, margins.min(axis=1)], axis=1)


def _laws(selected: Floats, margins: Floats, alpha: float) -> list[tuple[Floats, Floats]]:
    """Thresholds and survival bounds of each statistic, jointly at level alpha."""
    share = alpha / margins.shape[1]
    laws = []
    for chosen, sample in zip(selected.T, margins.T, strict=True):
        places = _places(chosen)
        laws.append((places, survival_lower(sample, places, share)))
    return laws


def _places(selected: Floats) -> Floats:
    """Where to probe a margin's law: from the selection sample alone."""
    if len(selected) < _FEWEST_FOR_QUANTILES:
        return np.array(_FIXED_THRESHOLDS)
    quantiles = np.quantile(selected, _QUANTILES)
    below = quantiles[0] - _BELOW_MINIMUM * (np.median(selected) - quantiles[0])
    places = [place for place in (below, *quantiles) if place > -0.999] or [0.0]
    # Below any rounding: with identical features a threshold must not fall just above them all.
    return np.unique(np.minimum(places, 1.0)) - _ROUNDING


def _largest_shift(laws: list[tuple[Floats, Floats]]) -> float | None:
    """The largest r found at which every mean is certified positive; None if not even r = 0."""

    def holds(shift: float) -> bool:
        return all(law_lower(places, survival, shift) > _ROUNDING for places, survival in laws)

    if not holds(0.0):
        return None
    low, high = 0.0, _LARGEST_SHIFT
    while high - low > _WIDTH:
        middle = (low + high) / 2
        low, high = (middle, high) if holds(middle) else (low, middle)
    return low
