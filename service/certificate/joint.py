"""The joint problem: one worst case for both parts of F(x') instead of one for each.

The law of (s, y), y = <w, h> for a unit w orthogonal to u, is constrained by events A, B and C; a
shift reweights it by the likelihood ratio Λ = exp(rz - r²/2). An angle θ holds when no such law can
push y·cosθ - s·sinθ above zero, which by duality follows from *any* multipliers (κ, ν, η) >= 0 with
D(θ) < 0 (docs/certificate.md, "The joint problem"). Multipliers come from a smoothed minimisation;
the final value of D is evaluated with every rounding on the safe side.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize

from service.certificate.ratio import LARGEST_SHIFT, Ratio, likelihood_ratio

Floats = NDArray[np.float64]

_COARSE = np.linspace(-math.pi / 2, math.pi / 2, 31)
_FINE = np.linspace(-math.pi / 2, math.pi / 2, 721)
_SMOOTHING = (0.004, 0.002, 0.002)  # temperature of each round
_ITERATIONS = 60  # at most, in each
_MARGINS = (0.0, 1e-3, 3e-3, 1e-2, 3e-2)  # added to an angle until the exact check holds
_GROWTHS = (1.0, 1.02, 1.05, 1.1, 1.2, 1.5)  # of the angle, until its multipliers hold
_STRICT = -1e-9


@dataclass(frozen=True, slots=True)
class JointProblem:
    """Events A, B, C at one shift.

    Attributes:
        thresholds: t_k in [0, 1]; negative ones are left out, which is sound.
        survival: p_k, falling.
        second_moment: lambda+.
        mean: mu+.
        ratio: the likelihood ratio at this shift.
    """

    thresholds: Floats
    survival: Floats
    second_moment: float
    mean: float
    ratio: Ratio

    def dual(self, x: Floats, theta: float) -> float:
        """D(θ) at multipliers x = (κ, ν, η_1 ... η_K), every rounding upwards."""
        values, _ = self._candidates(x, theta, _FINE)
        step = _FINE[1] - _FINE[0]
        # The circle was searched at points: its second derivative bounds what lies between.
        values[0] += step * step / 8 * (self.ratio.nodes + 2 * x[0] + x[1])
        return self._total(x, values.max(0))

    def smooth(self, x: Floats, theta: float, temperature: float) -> tuple[float, Floats]:
        """D(θ) with a soft maximum on a coarse grid, and its gradient in x."""
        values, y = self._candidates(x, theta, _COARSE)
        peak = values.max(0)
        shares = np.exp((values - peak) / temperature)
        total = shares.sum(0)
        shares *= self.ratio.weights / total
        rewarded = np.cumsum(shares[1:].sum(1)[::-1])[::-1]
        gradient = np.concatenate(
            [
                [self.second_moment - float((shares * y * y).sum())],
                [self.mean - float((shares * y).sum()) + self.ratio.tail],
                rewarded - self.survival + self.ratio.tail,
            ]
        )
        return self._total(x, peak + temperature * np.log(total)), gradient

    def _total(self, x: Floats, values: Floats) -> float:
        fixed = x[0] * self.second_moment + x[1] * self.mean - float(x[2:] @ self.survival)
        # Beyond the last node the payoff is at most Λ + ν + the sum of all rewards.
        beyond = self.ratio.tail * float(x[1] + x[2:].sum()) + self.ratio.shifted_tail
        return float(fixed + self.ratio.weights @ values + beyond)

    def _candidates(self, x: Floats, theta: float, angles: Floats) -> tuple[Floats, Floats]:
        """Best payoffs [1 + K, J] and their y: on the circle below t_1, and at each s = t_k."""
        kappa, nu, rewards = x[0], x[1], np.cumsum(x[2:])
        nodes, cosine, sine = self.ratio.nodes, math.cos(theta), math.sin(theta)
        circle = np.outer(np.sin(angles + theta), nodes)
        circle -= (kappa * np.sin(angles) ** 2 + nu * np.sin(angles))[:, None]
        best = circle.argmax(0)
        reach = np.sqrt(np.maximum(1 - self.thresholds**2, 0.0))[:, None]
        y = np.clip((nodes * cosine - nu) / (2 * kappa), -reach, reach)
        level = rewards[:, None] - np.outer(self.thresholds, nodes) * sine
        level = level + (nodes * cosine - nu) * y - kappa * y * y
        first = circle[best, np.arange(len(nodes))]
        return np.vstack([first, level]), np.vstack([np.sin(angles[best]), y])


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
    kept = thresholds >= 0
    if shift > LARGEST_SHIFT or not kept.any():
        return math.pi
    falling = np.maximum.accumulate(survival[::-1])[::-1]
    problem = JointProblem(
        thresholds[kept], falling[kept], second_moment, mean, likelihood_ratio(shift)
    )
    # Multipliers in units of what they usually are: the minimiser needs half as many steps.
    kappa = math.exp(shift * shift / 2) / 2 / math.sqrt(second_moment)
    scale = np.array([kappa, 0.3, *1.5 / np.arange(1, kept.sum() + 1) ** 1.5])
    x = scale * np.array([1.0, 0.5, *np.ones(len(scale) - 2)])
    theta, best = min(start, math.pi / 2 - 1e-3), math.pi
    for temperature in _SMOOTHING:
        x = _multipliers(problem, x, scale, theta, temperature)
        found = _smallest_angle(problem, x, theta, temperature)
        if found is None:
            break
        best = min(best, _verified(problem, x, found))
        if abs(found - theta) < 5e-4:
            break
        theta = found
    return best


def _multipliers(
    problem: JointProblem, start: Floats, scale: Floats, theta: float, temperature: float
) -> Floats:
    """Those that minimise the smoothed D at `theta`, nearly."""

    def loss(z: Floats) -> tuple[float, Floats]:
        value, gradient = problem.smooth(z * scale, theta, temperature)
        return value, gradient * scale

    found = minimize(
        loss,
        start / scale,
        jac=True,
        method="L-BFGS-B",
        bounds=[(1e-3 / scale[0], None)] + [(0.0, None)] * (len(scale) - 1),
        options={"maxiter": _ITERATIONS},
    )
    return np.asarray(found.x * scale)


def _smallest_angle(
    problem: JointProblem, x: Floats, theta: float, temperature: float
) -> float | None:
    """Where the smoothed D of these multipliers crosses zero near `theta`; None if nowhere."""

    def holds(angle: float) -> bool:
        return problem.smooth(x, angle, temperature / 10)[0] <= 0

    above = (theta * growth for growth in _GROWTHS if theta * growth < math.pi / 2)
    high = next((angle for angle in above if holds(angle)), None)
    if high is None:
        return None
    low = high / 2
    for _ in range(12):
        middle = (low + high) / 2
        low, high = (low, middle) if holds(middle) else (middle, high)
    return high


def _verified(problem: JointProblem, x: Floats, theta: float) -> float:
    """The first angle at or just above `theta` at which the exact D is negative, else pi."""
    for margin in _MARGINS:
        angle = theta + margin
        if angle < math.pi / 2 and problem.dual(x, angle) < _STRICT:
            return angle
    return math.pi
