"""A wager against "somewhere within the radius the feature leaves the cone".

The claim to refute, at angle θ and shift r: for some x' within r·sigma and some unit w orthogonal
to u, E_{x'} G >= 0 with G = y·cosθ - s·sinθ, s = <u, f>, y = <w, f>. A payoff e(s, y) >= 0 at

    price = E_z max over s² + y² <= 1 of [βΛG + e(s, y)],   any β > 0,

has mean at most its price at x under the claim, because β·E_{x'} G >= 0 (docs/certificate.md,
"The wager"). So capital that grows beyond 1/alpha refutes the claim at level alpha, at any time.
Payoffs here are e = a_k - κy² - νy on cells t_k <= s < t_{k+1} and a constant below t_0.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize

from service.certificate.ratio import Ratio

Floats = NDArray[np.float64]

# Payoff of a sample below every cell, as a share of that in the first: such a sample must not
# ruin the capital, and a larger share costs growth.
_FLOOR = 0.02
_MOST_STAKED = 0.98  # no payoff on any cell falls below the rest
_TEMPERATURE = 2e-4  # of the soft maximum, beside payoffs near 1
_SCALE, _STEP = (0.25, 0.5, 0.15), 0.04  # usual β, κ, ν and first step of the payoffs
_ROUNDING = 1e-9
# Quantiles of the projections at which cells begin, and how far below the smallest the first do.
_QUANTILES = (0.0, 0.01, 0.03, 0.08, 0.18, 0.28, 0.38, 0.5, 0.62, 0.74, 0.84, 0.92)
_BELOW = (1.5, 0.4)
_UNSEEN = 0.5


@dataclass(frozen=True, slots=True)
class Terms:
    """Lower bound a - d·y - c·y² of the log-payoff of each sample, over its possible y.

    Attributes:
        constant, linear, quadratic: [n] each; the price is taken off `constant`.
    """

    constant: Floats
    linear: Floats
    quadratic: Floats


@dataclass(frozen=True, slots=True)
class Wager:
    """A payoff and its price.

    Attributes:
        starts: t_0 < ... < t_{K-1}, all in [0, 1].
        payoffs: a_k, rising, a_0 = 1.
        quadratic: κ; linear: ν.
        log_price: rounded up.
        forecast: log-growth a sample that the choice expected.
    """

    starts: Floats
    payoffs: Floats
    quadratic: float
    linear: float
    log_price: float
    forecast: float

    def terms(self, projections: Floats) -> Terms:
        """The log-payoffs of samples with s = `projections`, [n] in [-1, 1].

        ln(1 - v) for v = κ'y² + ν'y is at least -ν'y - cy² on |y| <= ρ = sqrt(1 - s²), with c fixed
        by y = ρ: the remainder over y² is a power series that is largest there.
        """
        cell = np.searchsorted(self.starts, projections, side="right") - 1
        seen = cell >= 0
        payoff = np.where(seen, self.payoffs[cell], _FLOOR)
        rho = np.sqrt(np.maximum(1 - projections**2, 1e-12))
        kappa, nu = self.quadratic / payoff * seen, self.linear / payoff * seen
        quadratic = (-np.log1p(-(kappa * rho + nu) * rho) - nu * rho) / rho**2
        return Terms(np.log(payoff) - self.log_price, nu, quadratic * (1 + 1e-12))


def cells(projections: Floats) -> Floats:
    """Where to start cells, from projections seen so far; those below 0 are left out."""
    quantiles = np.quantile(projections, _QUANTILES)
    drop = np.median(projections) - quantiles[0]
    places = np.concatenate([quantiles[0] - np.array(_BELOW) * drop, quantiles])
    starts = np.unique(np.minimum(places, 1.0)) - 1e-12
    return np.asarray(starts[starts >= 0])


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
        bounds=[(1e-3, None), (1e-2, None)] + [(0.0, None)] * (len(scale) - 2),
        options={"maxiter": 200},
    )
    return problem.wager(found.x * scale)


class _Problem:
    """Log-growth of a wager as a function of x = (β, κ, ν, a_1 - a_0, ..., a_{K-1} - a_{K-2})."""

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
        # Cells where nothing was seen yet count as if half a sample had been.
        empty = starts[: len(_BELOW)]
        inside = np.concatenate([empty, projections[projections >= starts[0]]])
        weights = np.ones(len(inside))
        weights[: len(empty)] = _UNSEEN
        self.weights = weights / weights.sum()
        self.cell = np.searchsorted(starts, inside, side="right") - 1
        self.rho = np.sqrt(np.maximum(1 - inside**2, 1e-9))
        self.reach = np.sqrt(np.maximum(1 - starts**2, 0.0))[:, None]

    def loss(self, x: Floats) -> tuple[float, Floats]:
        """Minus the expected log-growth with a smoothed price, and its gradient in x."""
        beta, kappa, nu, payoffs = self._unpack(x)
        growth, slopes = self._growth(kappa, nu, payoffs)
        values, y = self._best(beta, kappa, nu, payoffs)
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
                np.cumsum(by_payoff[::-1])[::-1][1:],
            ]
        )
        gradient = gradient / price - slopes
        return math.log(price) - growth, gradient

    def wager(self, x: Floats) -> Wager:
        """The wager of these parameters, made safe and priced exactly."""
        beta, kappa, nu, payoffs = self._unpack(x)
        reach = self.reach[:, 0]
        staked = float(((kappa * reach + nu) * reach / payoffs).max())
        if staked > _MOST_STAKED:
            kappa, nu = kappa * _MOST_STAKED / staked, nu * _MOST_STAKED / staked
        values, _ = self._best(beta, kappa, nu, payoffs)
        price = self._price(beta, nu, payoffs, values.max(0))
        log_price = math.log(price) + _ROUNDING
        growth, _ = self._growth(kappa, nu, payoffs)
        return Wager(self.starts, payoffs, kappa, nu, log_price, growth - log_price)

    @staticmethod
    def _unpack(x: Floats) -> tuple[float, float, float, Floats]:
        payoffs = 1 + np.concatenate([[0.0], np.cumsum(x[3:])])
        return float(x[0]), float(x[1]), float(x[2]), payoffs

    def _growth(self, kappa: float, nu: float, payoffs: Floats) -> tuple[float, Floats]:
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
                np.cumsum(by_payoff[::-1])[::-1][1:],
            ]
        )
        return float(growth @ weights), slopes

    def _best(self, beta: float, kappa: float, nu: float, payoffs: Floats) -> tuple[Floats, Floats]:
        """Largest βΛG + e below the cells and in each, [1 + K, J], and the y in each, [K, J].

        Below the cells G reaches 1; in a cell the least s is best, and a parabola in y remains.
        """
        nodes = beta * self.ratio.nodes
        y = np.clip((nodes * self.cosine - nu) / (2 * kappa), -self.reach, self.reach)
        level = payoffs[:, None] - np.outer(self.starts, nodes) * self.sine
        level = level + (nodes * self.cosine - nu) * y - kappa * y * y
        return np.vstack([nodes + _FLOOR, level]), y

    def _price(self, beta: float, nu: float, payoffs: Floats, values: Floats) -> float:
        """Expectation over the ratio; beyond its last node the payoff is at most a_K + ν."""
        beyond = self.ratio.tail * (payoffs[-1] + nu) + beta * self.ratio.shifted_tail
        return float(self.ratio.weights @ values + beyond)
