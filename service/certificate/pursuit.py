"""The pursuit of a target: capital wagered, sample by sample, against its failure.

While the claim "somewhere within the radius the angle reaches θ" is true, the capital is a
nonnegative martingale at most, whatever the true worst direction, so it ever exceeds 1/alpha with
probability at most alpha (Ville, 1939). No checkpoint costs anything. The wager may change as long
as it is chosen from samples that came before (docs/certificate.md, "The wager").
"""

import math

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri

from service.certificate.choice import choose
from service.certificate.directions import top_eigenvalue, worst_direction
from service.certificate.evidence import Gram, Selection
from service.certificate.ratio import LARGEST_SHIFT, likelihood_ratio
from service.certificate.wager import Wager

Floats = NDArray[np.float64]

# The wager is chosen again at these numbers of samples, and at every doubling of the last.
_FIRST_CHOICE = 64
# A forecast of failure counts when it stands with half the spread that was seen, from here on.
_FEWEST_FOR_FORECAST = 128
_TRUSTED_SELECTION = 256  # samples until which the selection sample's spread is averaged in
_FEWEST_SELECTED = 5  # below, the selection sample foretells nothing
_SHRUNK_MEAN = 0.7  # of the selection error that the mean of h is expected to show


class Pursuit:
    """The sequential test of one target.

    Args:
        shift: r of the target's radius, >= 0.
        bound: the cosine to certify there, in (0, 1).
        alpha: level of the test.
        selection: what foretells the first wager.
    """

    def __init__(self, shift: float, bound: float, alpha: float, selection: Selection) -> None:
        self._theta = math.acos(bound)
        self._ratio = likelihood_ratio(shift) if shift <= LARGEST_SHIFT else None
        self._goal = math.log(1 / alpha)
        few = selection.samples < _FEWEST_SELECTED
        self._foretold = np.empty(0) if few else selection.projections
        h = selection.orthogonal
        self._spread = top_eigenvalue(h @ h.T) / len(h)
        self._drift = math.sqrt(
            max(0.0, 1 - float(np.mean(selection.projections**2))) / selection.samples
        )
        # A perfect encoder's capital grows by no more than this a sample: its null law must put
        # p at G = 1 against 1 - p at G = -sin(theta), so that the shifted mean reaches 0.
        sine = math.sin(self._theta)
        self._fastest = -math.log1p(-float(ndtr(ndtri(sine / (1 + sine)) - shift)))
        self._wager = self._choose(self._foretold, self._spread, self._drift)
        self._next_choice = _FIRST_CHOICE
        self._samples = 0
        self.settled_samples = 0
        self._banked = 0.0  # log-capital before the open block's worst direction
        self._settled_spread = self._settled_drift = 0.0
        self._gram = np.empty((0, 0))
        self._linear, self._quadratic = np.empty(0), np.empty(0)
        self._hoped = math.inf
        self.log_capital = 0.0

    @property
    def reached(self) -> bool:
        """The target is certified."""
        return self.log_capital >= self._goal

    @property
    def gram(self) -> Gram:
        """Of the open block's samples."""
        return Gram(self._gram)

    def extend(self, orthogonal: Floats, projections: Floats) -> None:
        """Take the samples since the last call.

        Args:
            orthogonal: h_i of the open block so far, old ones first, [m, d].
            projections: s_i of every estimation sample so far, [n].
        """
        old, new = len(self._gram), len(orthogonal)
        if new > old:
            gram = np.empty((new, new))
            gram[:old, :old] = self._gram
            gram[old:] = orthogonal[old:] @ orthogonal.T
            gram[:old, old:] = gram[old:, :old].T
            self._gram = gram
        fresh = projections[self._samples :]
        self._samples = len(projections)
        if self._wager is None:
            self._linear = np.concatenate([self._linear, np.zeros(len(fresh))])
            self._quadratic = np.concatenate([self._quadratic, np.zeros(len(fresh))])
        else:
            terms = self._wager.terms(fresh)
            self._banked += float(terms.constant.sum())
            self._linear = np.concatenate([self._linear, terms.linear])
            self._quadratic = np.concatenate([self._quadratic, terms.quadratic])
        self.log_capital = self._banked - self._worst()

    def settle(self) -> None:
        """The open block is full: its worst direction is charged, and its samples forgotten."""
        self._banked -= self._worst()
        spread, drift = self._open_moments()
        self._settled_spread += spread
        self._settled_drift += drift
        self.settled_samples = self._samples
        self._gram = np.empty((0, 0))
        self._linear, self._quadratic = np.empty(0), np.empty(0)

    def hopeless(self, remaining: int) -> bool:
        """No wager on `remaining` more samples reaches the target, as far as can be foreseen."""
        missing = self._goal - self.log_capital
        if missing > remaining * self._fastest or self._ratio is None:
            return True
        return self._samples >= _FEWEST_FOR_FORECAST and missing > remaining * max(self._hoped, 0.0)

    def choose_again(self, projections: Floats) -> None:
        """Choose the wager for the samples to come, where it is time to.

        Args:
            projections: s_i of every estimation sample so far, [n].
        """
        if self._samples < self._next_choice or self._ratio is None:
            return
        while self._next_choice <= self._samples:
            self._next_choice *= 2
        # As they are charged: each block has a worst direction and a drift of its own.
        spread, drift = self._open_moments()
        spread = (self._settled_spread + spread) / self._samples
        drift = max((self._settled_drift + drift) / self._samples, _SHRUNK_MEAN * self._drift)
        if self._samples < _TRUSTED_SELECTION:
            kept = len(self._foretold)
            whole = self._samples + kept
            spread = (spread * self._samples + self._spread * kept) / whole
        seen = np.concatenate([self._foretold, projections])
        self._wager = self._choose(seen, spread, drift)
        hoped = self._choose(seen, spread / 2, drift / 2)
        self._hoped = 0.0 if hoped is None else hoped.forecast

    def _open_moments(self) -> tuple[float, float]:
        """Largest eigenvalue of sum hh^T and norm of sum h over the open block, estimated."""
        if not len(self._gram):
            return 0.0, 0.0
        return top_eigenvalue(self._gram), math.sqrt(max(float(self._gram.sum()), 0.0))

    def _worst(self) -> float:
        if not len(self._gram) or not self._quadratic.any():
            return 0.0
        return worst_direction(self._gram, self._quadratic, self._linear)

    def _choose(self, projections: Floats, spread: float, drift: float) -> Wager | None:
        if self._ratio is None or not len(projections):
            return None
        wager = choose(projections, spread, drift, self._ratio, self._theta)
        # One that expects to lose is not made: the capital stays as it is.
        return wager if wager is not None and wager.forecast > 0 else None
