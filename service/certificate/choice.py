"""The choice of a wager: the one that should grow fastest on samples like those seen so far.

A poor choice costs samples, never soundness; the price of what is chosen is exact, and rounded up.
"""

import math

import numpy as np
from scipy.optimize import minimize

from service.certificate.ratio import Ratio
from service.certificate.wager import Floats, Wager

# Least payoff of a sample below every cell, as a share of that in the first: such a sample must
# not ruin the capital.
_LEAST_FLOOR = 0.02
_MOST_STAKED = 0.98  # no payoff on any cell falls below the rest
_TEMPERATURE = 2e-4  # of the soft maximum, beside payoffs near 1
_SCALE, _STEP = (0.25, 0.5, 0.15, 0.1), 0.04  # usual β, κ, ν, floor and first step of payoffs
_ROUNDING = 1e-9
# Quantiles of the projections at which cells begin, and how far below the smallest the first do.
_QUANTILES = (0.0, 0.01, 0.03, 0.08, 0.18, 0.28, 0.38, 0.5, 0.62, 0.74, 0.84, 0.92)
_BELOW = (1.5, 0.4)
_UNSEEN = 0.5


def cells(projections: Floats) -> Floats:
    """Where to start cells, from projections seen so far; those below 0 are left out."""
    quantiles = np.quantile(projections, _QUANTILES)
    drop = np.median(projections) - quantiles[0]
    places = np.concatenate([quantiles[0] - np.array(_BELOW) * drop, quantiles])
    if (places < 0).any() and (projections >= 0).any():
        places = np.append(places, projections[projections >= 0].min())
    starts = np.unique(np.minimum(places, 1.0)) - 1e-12
    return np.asarray(np.maximum(starts[starts >= -1e-12], 0.0))


def choose(
    projections: Floats, second_moment: float, mean: float, ratio: Ratio, theta: float
) -> Wager | None:
    """The wager that should grow fastest, or None where none can be made.

    Args:
        projections: s of samples seen so far, [n]; samples to come are taken to be like them.
        second_moment: expected largest eigenvalue of E hh^T.
        mean: expected ‖E h‖.
        ratio: of the shift.
        theta: angle of the claim, in (0, pi/2).
    """
    starts = cells(projections)
    if not len(starts):
        return None
    problem = _Problem(starts, projections, second_moment, mean, ratio, theta)
    scale = np.concatenate([_SCALE, _STEP / np.arange(1, len(starts))])

    def loss(z: Floats) -> tuple[float, Floats]:
        value, gradient = problem.loss(z * scale)
        return value, gradient * scale

    found = minimize(
        loss,
        np.ones(len(scale)),
        jac=True,
        method="L-BFGS-B",
        bounds=_bounds(scale),
        options={"maxiter": 200, "maxcor": 20, "ftol": 2e-7},
    )
    return problem.wager(found.x * scale)


def _bounds(scale: Floats) -> list[tuple[float, float | None]]:
    """Of each parameter over its scale."""
    floor = (_LEAST_FLOOR / _SCALE[3], 1 / _SCALE[3])
    return [(1e-3, None), (1e-2, None), (0.0, None), floor] + [(0.0, None)] * (len(scale) - 4)


class _Problem:
    """Log-growth of a wager, by x = (β, κ, ν, floor, a_1 - a_0, ..., a_{K-1} - a_{K-2})."""

    def __init__(
        self,
        starts: Floats,
        projections: Floats,
        second_moment: float,
        mean: float,
        ratio: Ratio,
        theta: float,
    ) -> None:
        self.starts, self.ratio = starts, ratio
        self.cosine, self.sine = math.cos(theta), math.sin(theta)
        self.second_moment, self.mean = second_moment, mean
        inside = projections[projections >= starts[0]]
        counts = np.bincount(
            np.searchsorted(starts, inside, side="right") - 1, minlength=len(starts)
        )
        # Cells where nothing was seen yet count as if half a sample had been.
        empty = starts[counts == 0]
        inside = np.concatenate([empty, inside])
        weights = np.ones(len(inside))
        weights[: len(empty)] = _UNSEEN
        self.below = float((projections < starts[0]).sum())
        total = weights.sum() + self.below
        self.weights, self.below = weights / total, self.below / total
        self.cell = np.searchsorted(starts, inside, side="right") - 1
        self.rho = np.sqrt(np.maximum(1 - inside**2, 1e-9))
        self.reach = np.sqrt(np.maximum(1 - starts**2, 0.0))[:, None]

    def loss(self, x: Floats) -> tuple[float, Floats]:
        """Minus the expected log-growth with a smoothed price, and its gradient in x."""
        beta, kappa, nu, floor, payoffs = self._unpack(x)
        growth, slopes = self._growth(kappa, nu, floor, payoffs)
        values, y = self._best(beta, kappa, nu, floor, payoffs)
        peak = values.max(0)
        shares = np.exp((values - peak) / _TEMPERATURE)
        total = shares.sum(0)
        price = self._price(beta, nu, payoffs, peak + _TEMPERATURE * np.log(total))
        shares *= self.ratio.weights / total
        levels, nodes = shares[1:], self.ratio.nodes
        gains = y * self.cosine - self.starts[:, None] * self.sine
        by_beta = float(shares[0] @ nodes + (levels * gains).sum(0) @ nodes)
        by_payoff = levels.sum(1)
        by_payoff[-1] += self.ratio.tail
        gradient = np.concatenate(
            [
                [by_beta + self.ratio.shifted_tail],
                [-float((levels * y * y).sum()), self.ratio.tail - float((levels * y).sum())],
                [float(shares[0].sum())],
                np.cumsum(by_payoff[::-1])[::-1][1:],
            ]
        )
        gradient = gradient / price - slopes
        return math.log(price) - growth, gradient

    def wager(self, x: Floats) -> Wager:
        """The wager of these parameters, made safe and priced exactly."""
        beta, kappa, nu, floor, payoffs = self._unpack(x)
        reach = self.reach[:, 0]
        staked = float(((kappa * reach + nu) * reach / payoffs).max())
        if staked > _MOST_STAKED:
            kappa, nu = kappa * _MOST_STAKED / staked, nu * _MOST_STAKED / staked
        values, _ = self._best(beta, kappa, nu, floor, payoffs)
        price = self._price(beta, nu, payoffs, values.max(0))
        log_price = math.log(price) + _ROUNDING
        growth, _ = self._growth(kappa, nu, floor, payoffs)
        return Wager(self.starts, payoffs, kappa, nu, floor, log_price, growth - log_price)

    @staticmethod
    def _unpack(x: Floats) -> tuple[float, float, float, float, Floats]:
        payoffs = 1 + np.concatenate([[0.0], np.cumsum(x[4:])])
        return float(x[0]), float(x[1]), float(x[2]), float(x[3]), payoffs

    def _growth(
        self, kappa: float, nu: float, floor: float, payoffs: Floats
    ) -> tuple[float, Floats]:
        """Mean log-payoff of the samples seen, by `Wager.terms`, and its slopes."""
        a, rho = payoffs[self.cell], self.rho
        k, v = kappa / a, nu / a
        staked = np.minimum((k * rho + v) * rho, _MOST_STAKED)
        curve = (-np.log1p(-staked) - v * rho) / rho**2
        growth = np.log(a) - curve * self.second_moment - v * self.mean
        by_k = -self.second_moment / (1 - staked)
        by_v = -self.second_moment * staked / ((1 - staked) * rho) - self.mean
        by_a = (1 - by_k * k - by_v * v) / a
        weights = self.weights
        by_payoff = np.bincount(self.cell, by_a * weights, minlength=len(payoffs))
        slopes = np.concatenate(
            [
                [0.0, float(by_k / a @ weights), float(by_v / a @ weights)],
                [self.below / floor],
                np.cumsum(by_payoff[::-1])[::-1][1:],
            ]
        )
        return float(growth @ weights) + self.below * math.log(floor), slopes

    def _best(
        self, beta: float, kappa: float, nu: float, floor: float, payoffs: Floats
    ) -> tuple[Floats, Floats]:
        """Largest βΛG + e below the cells and in each, [1 + K, J], and the y in each, [K, J].

        Below the cells G reaches 1; in a cell the least s is best, and a parabola in y remains.
        """
        nodes = beta * self.ratio.nodes
        y = np.clip((nodes * self.cosine - nu) / (2 * kappa), -self.reach, self.reach)
        level = payoffs[:, None] - np.outer(self.starts, nodes) * self.sine
        level = level + (nodes * self.cosine - nu) * y - kappa * y * y
        return np.vstack([nodes + floor, level]), y

    def _price(self, beta: float, nu: float, payoffs: Floats, values: Floats) -> float:
        """Expectation over the ratio; beyond its last node no payoff exceeds a_K + ν."""
        beyond = self.ratio.tail * (payoffs[-1] + nu) + beta * self.ratio.shifted_tail
        return float(self.ratio.weights @ values + beyond)
