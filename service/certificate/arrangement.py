"""The joint problem with the worst law's arrangement fixed: two multipliers remain.

Every constraint P(s >= t_k) >= p_k binds, so the worst law puts a mass of exactly p_k at or above
t_k, and what is left below t_1. Once it is settled at which Λ these masses lie, the rewards η drop
out, and D is a smooth convex function of κ and ν: a few steps of Newton's instead of a hundred of a
general minimiser in all multipliers. What is found is a lower bound of what any multipliers could
prove, so the distance to what was proved says whether another arrangement is worth a try.
"""

import math
from dataclasses import dataclass

import numpy as np

from service.certificate.dual import Floats, JointProblem, circle_peak

_STEPS = 12  # of Newton's, at one angle; fewer while the angle still moves
_FIRST_STEPS = 3
_ROUNDS = 15  # of angles
_MOVES = 3e-3  # radians: a larger step of the angle means that it still moves
_DONE = 1e-6
_GAIN = 1e-8  # of D: less is not worth a step
_RIDGE = 1e-4  # kinks make the second derivatives singular
_NO_MASS = 1e-15
_LEAST_KAPPA, _LEAST_SHARE = 1e-3, 5e-3  # of its first guess: beyond, only kinks are left


@dataclass(frozen=True, slots=True)
class _Point:
    """D and its derivatives at (κ, ν, θ); `turn` is -dD/dθ."""

    value: float
    turn: float
    by_kappa: float
    by_nu: float
    kappa_kappa: float
    kappa_nu: float
    nu_nu: float


class Arrangement:
    """Masses of the law by level (0: below t_1; k: at t_k) and node of the ratio.

    Args:
        problem: whose law it is.
        masses: [1 + K, J]; the columns sum to the ratio's weights.
    """

    def __init__(self, problem: JointProblem, masses: Floats) -> None:
        self._problem = problem
        level, node = np.nonzero(masses[1:])
        free = np.flatnonzero(masses[0])
        self._held = len(level)
        self._mass = np.concatenate([masses[1:][level, node], masses[0][free]])
        self._ratio = problem.ratio.nodes[np.concatenate([node, free])]
        self._shifted = self._mass * self._ratio
        heights = problem.thresholds[level]
        self._reach = np.sqrt(np.maximum(1 - heights**2, 0.0))
        self._climb = float(self._shifted[: self._held] @ heights)

    def smallest_angle(self, theta: float) -> tuple[float, float, float] | None:
        """The angle at which the least D is zero, and its κ and ν; None: not below pi/2.

        Args:
            theta: where to begin, below pi/2.
        """
        kappa, nu = self._guess(theta)
        least = max(_LEAST_KAPPA, _LEAST_SHARE * kappa)
        steps = _FIRST_STEPS
        for _ in range(_ROUNDS):
            kappa, nu, point, done = self._minimise(kappa, nu, theta, least, steps)
            if point.turn <= 0:
                return None
            # The worst law's mean is (S, Y) with D = Y·cosθ - S·sinθ: its own angle is next.
            move = math.atan2(point.value, point.turn)
            if theta + move >= math.pi / 2:
                if done:
                    return None
                move = math.pi / 2 - 1e-3 - theta
            theta += move
            if abs(move) < _MOVES:
                steps = _STEPS
            if done and abs(move) < _DONE:
                break
        return theta, kappa, nu

    def least(self, theta: float) -> float:
        """The least D at `theta`, nearly."""
        kappa, nu = self._guess(theta)
        least = max(_LEAST_KAPPA, _LEAST_SHARE * kappa)
        return self._minimise(kappa, nu, theta, least, _STEPS)[2].value

    def _guess(self, theta: float) -> tuple[float, float]:
        """Exact where no y meets the edge of the disk."""
        problem, cosine = self._problem, math.cos(theta)
        shift = problem.ratio.shift
        room = problem.second_moment - problem.mean**2
        if room > 1e-12:
            kappa = cosine * math.sqrt(math.expm1(shift * shift) / room) / 2
            if (nu := cosine - 2 * kappa * problem.mean) > 0:
                return kappa, nu
        return cosine * math.exp(shift * shift / 2) / 2 / math.sqrt(problem.second_moment), 0.0

    def _minimise(
        self, kappa: float, nu: float, theta: float, least: float, steps: int
    ) -> tuple[float, float, _Point, bool]:
        """Damped Newton over κ >= least, ν >= 0; whether it ended before its steps did."""
        at = self._evaluate(kappa, nu, theta)
        for _ in range(steps):
            up, across = _newton(at, kappa, nu, least)
            gain = -(at.by_kappa * up + at.by_nu * across)
            if gain < _GAIN:
                return kappa, nu, at, True
            share = min(1.0, 0.7 * kappa / -up if up < 0 else 3 * kappa / max(up, 1e-300))
            for _ in range(6):
                there = self._evaluate(kappa + share * up, nu + share * across, theta)
                if there.value <= at.value - 1e-4 * share * gain:
                    break
                share *= 0.3
            else:
                return kappa, nu, at, True
            kappa, nu, at = kappa + share * up, nu + share * across, there
        return kappa, nu, at, False

    def _evaluate(self, kappa: float, nu: float, theta: float) -> _Point:
        cosine, sine, held = math.cos(theta), math.sin(theta), self._held
        problem = self._problem
        pull = self._ratio * cosine - nu
        best = pull[:held] / (2 * kappa)
        y, give = np.empty_like(pull), np.empty_like(pull)  # give: -dy/dν
        y[:held] = np.minimum(np.maximum(best, -self._reach), self._reach)
        give[:held] = (y[:held] == best) / (2 * kappa)
        lift = self._ratio[held:] * sine
        y[held:], height, _ = circle_peak(pull[held:], lift, kappa)
        give[held:] = 1 / (lift / (height * height * height) + 2 * kappa)
        weighted = self._mass * y
        by_kappa = problem.second_moment - float(weighted @ y)
        by_nu = problem.mean + problem.ratio.tail - float(weighted.sum())
        across = float(self._shifted @ y)
        along = self._climb - float(self._shifted[held:] @ height)
        value = kappa * by_kappa + nu * by_nu + cosine * across - sine * along
        bent = self._mass * give
        turned = bent * y
        return _Point(
            value + problem.ratio.shifted_tail,
            sine * across + cosine * along,
            by_kappa,
            by_nu,
            4 * float(turned @ y),
            2 * float(turned.sum()),
            float(bent.sum()),
        )


def _newton(at: _Point, kappa: float, nu: float, least: float) -> tuple[float, float]:
    """Newton's step in κ and ν, to the wall where it would cross one."""
    first = at.kappa_kappa * (1 + _RIDGE) + 1e-12
    second = at.nu_nu * (1 + _RIDGE) + 1e-12
    mixed = at.kappa_nu
    determinant = first * second - mixed * mixed
    up = (mixed * at.by_nu - second * at.by_kappa) / determinant
    across = (mixed * at.by_kappa - first * at.by_nu) / determinant
    if nu + across < 0:
        across = -nu
        up = -(at.by_kappa + mixed * across) / first
    if kappa + up < least:
        up = least - kappa
        across = max(-(at.by_nu + mixed * up) / second, -nu)
    return up, across


def by_ratio(problem: JointProblem) -> Arrangement:
    """High s where Λ is small: the worst law's arrangement, but for the smallest Λ."""
    weights = problem.ratio.weights
    filled = np.cumsum(weights)
    above = np.minimum(filled, _wanted(problem)[:, None])
    above[:, 1:] -= above[:, :-1].copy()
    return Arrangement(problem, _by_level(np.vstack([weights, above])))


def by_payoff(
    problem: JointProblem, kappa: float, nu: float, theta: float
) -> tuple[Arrangement, Floats]:
    """The worst law's arrangement at these multipliers, and the rewards η that go with it."""
    payoffs = problem.payoffs(kappa, nu, theta)
    loss = payoffs[:-1] - payoffs[1:]
    above = np.empty_like(payoffs)
    above[0] = problem.ratio.weights
    rewards = np.empty(len(loss))
    orders = np.argsort(loss, axis=1, kind="stable")
    # Level k takes p_k of what level k - 1 has, where that costs the law least.
    for k, (order, wanted) in enumerate(zip(orders, _wanted(problem), strict=True)):
        filled = np.cumsum(above[k][order])
        last = order[min(int(np.searchsorted(filled, wanted)), len(order) - 1)]
        rewards[k] = max(loss[k, last], 0.0)
        np.minimum(filled, wanted, out=filled)
        filled[1:] -= filled[:-1].copy()
        above[k + 1][order] = filled
    return Arrangement(problem, _by_level(above)), rewards


def _wanted(problem: JointProblem) -> Floats:
    """Masses p_k up to the last node; that of `tail` lies beyond it and is counted for all."""
    ratio = problem.ratio
    return np.clip(problem.survival - ratio.tail, 0.0, float(ratio.weights.sum()))


def _by_level(above: Floats) -> Floats:
    """From masses at or above each level, in place."""
    above[:-1] -= above[1:]
    above[above < _NO_MASS] = 0.0
    return above
