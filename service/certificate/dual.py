"""The dual of the joint problem: D(θ), whose negativity proves an angle.

The law of (s, y), y = <w, h> for a unit w orthogonal to u, is constrained by events A, B and C; a
shift reweights it by the likelihood ratio Λ = exp(rz - r²/2). An angle θ holds when no such law can
push y·cosθ - s·sinθ above zero, which by duality follows from *any* multipliers (κ, ν, η) >= 0 with
D(θ) < 0 (docs/certificate.md, "The joint problem"). D is evaluated here, every rounding upwards.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from service.certificate.ratio import Ratio

Floats = NDArray[np.float64]

_STEPS = 4  # of Halley's iteration; what it leaves is added to the payoff
_LEAST_LIFT = 1e-9  # Λ·sinθ is raised to it: the payoff only grows
_ROUNDING = 1e-13  # of the multipliers, which large ones would cancel down to


@dataclass(frozen=True, slots=True)
class Multipliers:
    """κ of the second moment, ν of the mean, η_1 ... η_K of the law; any are sound, κ > 0."""

    kappa: float
    nu: float
    rewards: Floats


@dataclass(frozen=True, slots=True)
class JointProblem:
    """Events A, B, C at one shift.

    Attributes:
        thresholds: t_1 < ... < t_K in [0, 1]; negative ones are left out, which is sound.
        survival: p_k, falling.
        second_moment: lambda+ > 0.
        mean: mu+.
        ratio: the likelihood ratio at this shift.
    """

    thresholds: Floats
    survival: Floats
    second_moment: float
    mean: float
    ratio: Ratio

    def dual(self, x: Multipliers, theta: float) -> float:
        """D(θ), every rounding upwards; infinite unless κ > 0, ν, η >= 0 and θ in (0, pi/2)."""
        most = x.nu + float(x.rewards.sum())
        sound = 0 < x.kappa < math.inf and x.nu >= 0 and bool((x.rewards >= 0).all())
        if not (sound and most < math.inf and 0 < theta < math.pi / 2):
            return math.inf
        values = self.payoffs(x.kappa, x.nu, theta)
        values[1:] += np.cumsum(x.rewards)[:, None]
        fixed = x.kappa * self.second_moment + x.nu * self.mean - float(x.rewards @ self.survival)
        # Beyond the last node the payoff is at most Λ + ν + the sum of all rewards.
        beyond = self.ratio.tail * most + self.ratio.shifted_tail
        rounding = _ROUNDING * (1 + x.kappa * self.second_moment + most)
        return float(fixed + self.ratio.weights @ values.max(0) + beyond + rounding)

    def payoffs(self, kappa: float, nu: float, theta: float) -> Floats:
        """Largest Λ(y·cosθ - s·sinθ) - κy² - νy below t_1 and at each s = t_k, [1 + K, J]."""
        nodes, sine = self.ratio.nodes, math.sin(theta)
        pull = nodes * math.cos(theta) - nu
        y, height, slope = circle_peak(pull, nodes * sine, kappa)
        lift = np.maximum(nodes * sine, _LEAST_LIFT)
        reach = np.sqrt(np.maximum(1 - self.thresholds**2, 0.0))[:, None]
        found = np.empty((1 + len(self.thresholds), len(nodes)))
        # Concave in y, so below its tangent, which rises by no more than this over a width of 2.
        found[0] = (pull - kappa * y) * y + lift * height + 2 * slope
        level = np.minimum(np.maximum(pull / (2 * kappa), -reach), reach)
        found[1:] = (pull - kappa * level) * level - np.outer(self.thresholds, nodes * sine)
        return found


def circle_peak(pull: Floats, lift: Floats, kappa: float) -> tuple[Floats, Floats, Floats]:
    """Nearly where pull·y + lift·√(1 - y²) - κy² is largest on [-1, 1]; it is concave there.

    `lift` >= 0 is raised to a least value. Halley's iteration on t = y/√(1 - y²), from below.

    Returns:
        y, √(1 - y²), and the absolute slope that is left there.
    """
    lift = np.maximum(lift, _LEAST_LIFT)
    size = np.abs(pull)
    t = np.maximum(size / (lift + 2 * kappa), (size - 2 * kappa) / lift)
    for _ in range(_STEPS):
        square = 1 / (1 + t * t)
        pressed = 2 * kappa * np.sqrt(square)
        slope = size - (lift + pressed) * t
        pressed *= square
        steep = lift + pressed
        pressed *= square
        t += slope * steep / (steep * steep - 1.5 * t * pressed * slope)
    height = 1 / np.sqrt(1 + t * t)
    slope = np.abs(size - (lift + 2 * kappa * height) * t)
    return np.copysign(t * height, pull), height, slope
