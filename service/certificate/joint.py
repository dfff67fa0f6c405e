"""The joint problem: one worst case for both parts of F(x') instead of one for each.

Multipliers are sought by Newton's method in two of them, for one arrangement of the law after
another; what is returned was proved by the exact dual (docs/certificate.md, "The joint problem").
"""

import math

import numpy as np

from service.certificate.arrangement import by_payoff, by_ratio
from service.certificate.dual import Floats, JointProblem, Multipliers
from service.certificate.ratio import LARGEST_SHIFT, likelihood_ratio

_ARRANGEMENTS = 3  # tried at most
_LOOSE = 2e-4  # radians between proved and best conceivable that are worth another one
_MARGIN = 1e-6  # added to an angle before it is checked
_LARGEST_MARGIN = 0.05
_CHECKS = 5
_STRICT = -1e-9
_NEAREST = 1e-3  # to pi/2, where a search begins


def joint_angle(
    thresholds: Floats,
    survival: Floats,
    second_moment: float,
    mean: float,
    shift: float,
    start: float,
) -> float:
    """Upper bound in radians on the angle between u and F(x'); pi where this argument says nothing.

    Args:
        thresholds: t_1 < ... < t_K, as in `bounds.Cone`.
        survival: p_k <= P(s >= t_k).
        second_moment: lambda+.
        mean: mu+.
        shift: r.
        start: an angle below pi/2 that holds already, or pi.
    """
    problem = _problem(thresholds, survival, second_moment, mean, shift)
    if problem is None:
        return math.pi
    theta, best = min(start, math.pi / 2 - _NEAREST), math.pi
    arrangement = by_ratio(problem)
    for _ in range(_ARRANGEMENTS):
        if (found := arrangement.smallest_angle(theta)) is None:
            break
        theta, kappa, nu = found
        arrangement, rewards = by_payoff(problem, kappa, nu, theta)
        best = min(best, _verified(problem, Multipliers(kappa, nu, rewards), theta))
        if best - theta < _LOOSE:
            break
    return best


def joint_slack(
    thresholds: Floats,
    survival: Floats,
    second_moment: float,
    mean: float,
    shift: float,
    angle: float,
) -> float:
    """How far D stays below zero at `angle`, at best: nothing is proved, and cheap.

    Where it is negative, `joint_angle` is above `angle`. Arguments as there; `angle` below pi/2.
    """
    problem = _problem(thresholds, survival, second_moment, mean, shift)
    return -math.inf if problem is None else -by_ratio(problem).least(angle)


def _problem(
    thresholds: Floats, survival: Floats, second_moment: float, mean: float, shift: float
) -> JointProblem | None:
    """None where this argument says nothing."""
    kept = thresholds >= 0
    if shift > LARGEST_SHIFT or not kept.any():
        return None
    falling = np.maximum.accumulate(survival[::-1])[::-1]
    ratio = likelihood_ratio(shift)
    return JointProblem(thresholds[kept], falling[kept], max(second_moment, 1e-12), mean, ratio)


def _verified(problem: JointProblem, x: Multipliers, theta: float) -> float:
    """An angle just above `theta` at which the exact D is negative, else pi."""
    angle, rate = theta + _MARGIN, 1.0
    for _ in range(_CHECKS):
        if angle >= math.pi / 2 or angle > theta + _LARGEST_MARGIN:
            break
        if (value := problem.dual(x, angle)) < _STRICT:
            return angle
        # D falls by about sin(angle between) a radian; twice as far each time it was not enough.
        angle += rate * value + _MARGIN
        rate *= 2
    return math.pi
