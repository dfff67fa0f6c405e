"""The formulas of docs/certificate.md: what one picture's evidence says about every picture nearby.

Notation there and here: u the embedding, F the smoothed feature, s = <u, f>, h = f - s·u,
r = epsilon/sigma the shift. Every function is monotone in r on the safe side.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.special import ndtr, ndtri

from service.certificate.joint import joint_angle, joint_slack
from service.certificate.ratio import LARGEST_SHIFT
from service.types import Method

Floats = NDArray[np.float64]

# Beyond this shift the exponentials overflow, and no Monte-Carlo sample certifies anything.
_LARGEST_SHIFT = 20.0


def law_lower(thresholds: Floats, survival: Floats, shift: float) -> float:
    """a(r): lower bound on <u, F(x')> from the law of s, by the Gaussian Neyman-Pearson lemma.

    Args:
        thresholds: t_1 < ... < t_K in [-1, 1].
        survival: p_k <= P(s >= t_k), jointly at the level of event A.
        shift: r >= 0.

    Returns:
        -1 + sum_k (t_k - t_{k-1}) Phi(Phi^-1(p_k) - r), with t_0 = -1.
    """
    # P(s >= t) falls with t, so a bound at a higher threshold also holds below it.
    falling = np.maximum.accumulate(survival[::-1])[::-1]
    steps = np.diff(thresholds, prepend=-1.0)
    return float(-1.0 + np.sum(steps * ndtr(ndtri(falling) - shift)))


def mean_upper(mean_norm: float, second_moment: float, log_inverse: float, samples: int) -> float:
    """mu+: upper bound on ‖E h‖, by Bennett's inequality in the fixed direction of E h.

    Uncentred: with w that direction, -<w, h> <= 1 and E <w, h>² <= lambda.

    Args:
        mean_norm: norm of the sample mean of h.
        second_moment: lambda+, upper bound on the largest eigenvalue of E hh^T.
        log_inverse: L = ln(1/alpha of event C).
        samples: n.
    """
    if second_moment <= 0:
        return 0.0

    def excess(t: float) -> float:
        x = t / second_moment
        return samples * second_moment * ((1 + x) * math.log1p(x) - x) - log_inverse

    # Bernstein's slack is never smaller than Bennett's, so the root lies below it.
    tail = log_inverse / (3 * samples)
    most = tail + math.sqrt(tail * tail + 2 * second_moment * log_inverse / samples)
    slack = float(brentq(excess, 0.0, 2 * most, xtol=1e-14)) + 1e-12
    return min(mean_norm + slack, math.sqrt(second_moment), 1.0)


def mean_distance(norm: float, draws: int, alpha: float) -> float:
    """Upper bound of ‖mean of `draws` unit vectors - F‖, F their mean in law; level `alpha`.

    The smaller of McDiarmid's, (sqrt(v) + sqrt(2 ln(1/alpha)))/sqrt(draws), and Bennett's in
    Hilbert space, 2 exp(-(m v/4) h(2t/v)) (Pinelis 1994, "Optimum bounds for the distributions of
    martingales in Banach spaces", theorem 3.4 with D = 1, jumps <= 2): both are fixed by the
    variance v alone.

    Args:
        norm: lower bound of ‖F‖, in [0, 1]; the variance 1 - ‖F‖² is at most v = 1 - norm².
        draws: m.
        alpha: in (0, 1).
    """
    variance = max(1.0 - norm * norm, 1e-12)
    bounded = (math.sqrt(variance) + math.sqrt(2 * math.log(1 / alpha))) / math.sqrt(draws)
    rate = 4 * math.log(2 / alpha) / (draws * variance)

    def excess(x: float) -> float:
        return (1 + x) * math.log1p(x) - x - rate

    # h(x) >= x²/(2 + 2x/3): its root is beyond that of h.
    most = rate / 3 + math.sqrt(rate * rate / 9 + 2 * rate)
    root = float(brentq(excess, 0.0, 2 * most, xtol=1e-12 * most)) * (1 + 1e-9)
    return min(bounded, variance * root / 2)


def orthogonal_push(second_moment: float, mean: float, shift: float) -> float:
    """b(r): upper bound on the part of F(x') orthogonal to u (Cauchy-Schwarz on the likelihood).

    Args:
        second_moment: lambda+ >= largest eigenvalue of E hh^T.
        mean: mu+ >= ‖E h‖.
        shift: r >= 0.
    """
    if shift > _LARGEST_SHIFT:
        return 1.0
    growth = math.exp(shift * shift)
    whole = mean + math.sqrt(second_moment * math.expm1(shift * shift))

    def truncated(z: Floats) -> Floats:
        below = np.sqrt(second_moment * growth * ndtr(z - 2 * shift))
        return np.asarray(below + ndtr(shift - z), dtype=np.float64)

    # Any z is sound; a grid and one refinement come close to the best.
    coarse = np.linspace(-8.0, 8.0 + 2 * shift, 401)
    best = coarse[int(np.argmin(truncated(coarse)))]
    step = coarse[1] - coarse[0]
    fine = np.linspace(best - step, best + step, 81)
    return min(whole, float(truncated(fine).min()), 1.0)


def paper_bound(score: float, shift: float) -> float:
    """FCSB of arXiv:2601.16200 about the fixed reference v = f(x): 2 Phi(Phi^-1(S) - r) - 1.

    A negative value bounds an inner product, not a cosine, and is returned as -1.
    """
    value = float(2 * ndtr(ndtri(score) - shift) - 1)
    return value if value >= 0 else -1.0


@dataclass(frozen=True, slots=True)
class Cone:
    """The joint event of one certificate: everything needed to bound the angle at any shift.

    Attributes:
        thresholds, survival: event A, the law of s.
        second_moment: event B, lambda+.
        mean: event C, mu+.
    """

    thresholds: Floats
    survival: Floats
    second_moment: float
    mean: float

    def inner(self, shift: float) -> float:
        """a(r): lower bound on <u, F(x')>."""
        return law_lower(self.thresholds, self.survival, shift)

    def angle(self, shift: float) -> tuple[float, Method]:
        """Upper bound in radians on the angle between u and F(x'), and the argument that gave it.

        (pi, "none") where no argument holds. The joint problem sharpens the directional argument
        and goes by its name; it costs some milliseconds.
        """
        plain, method = self.plain_angle(shift)
        joint = joint_angle(
            self.thresholds, self.survival, self.second_moment, self.mean, shift, plain
        )
        return (joint, "directional") if joint < plain else (plain, method)

    def plain_angle(self, shift: float) -> tuple[float, Method]:
        """The same from the closed forms alone: the smallest of the three angles."""
        found: list[tuple[float, Method]] = []
        a = self.inner(shift)
        if a > 0:
            found.append((math.acos(min(a, 1.0)), "distributional"))
            b = orthogonal_push(self.second_moment, self.mean, shift)
            found.append((math.atan2(b, a), "directional"))
        if (angular := self._angular(shift)) is not None:
            found.append((angular, "angular"))
        return min(found, default=(math.pi, "none"))

    def _angular(self, shift: float) -> float | None:
        """The shift lemma for <f, -sin(theta)·u + cos(theta)·w>; None where it says nothing."""
        rho = self.inner(0.0)
        tau = float(2 * ndtr(shift) - 1)
        reach = math.hypot(rho, self.mean)
        if tau >= reach:
            return None
        angle = math.atan2(self.mean, rho) + math.asin(tau / reach)
        return angle if angle < math.pi / 2 else None

    def bound(self, shift: float) -> tuple[float, Method]:
        """Lower bound on cos(u, F(x')), -1 if vacuous, and its method."""
        angle, method = self.angle(shift)
        return (math.cos(angle) if method != "none" else -1.0), method

    def served_bound(self, shift: float, angle: float, draws: int, alpha: float) -> float:
        """Lower bound on cos(u, mean of `draws` fresh features at x'), at an extra `alpha`, or -1.

        `angle` is that between u and F(x'); `mean_distance` bounds ‖mean - F(x')‖.
        """
        a = self.inner(shift)
        if angle >= math.pi or a <= 0:
            return -1.0
        ratio = mean_distance(a, draws, alpha) / a
        if ratio >= 1:
            return -1.0
        # Past pi the cosine would rise again.
        return math.cos(min(angle + math.asin(ratio), math.pi))

    def largest_shift(self, threshold: float) -> float:
        """The largest r found at which the bound is at least `threshold`; rounded down."""
        return self.largest_shift_within(math.acos(threshold))

    def largest_shift_within(self, angle: float) -> float:
        """The largest r found at which the angle is at most `angle`, below pi/2; rounded down."""

        def plain(shift: float) -> float:
            return angle - self.plain_angle(shift)[0]

        def sharp(shift: float) -> float:
            return angle - self.angle(shift)[0]

        def slack(shift: float) -> float:
            return joint_slack(
                self.thresholds, self.survival, self.second_moment, self.mean, shift, angle
            )

        if plain(0.0) < 0 and sharp(0.0) < 0:
            return 0.0
        low = _last(plain, 0.0, _LARGEST_SHIFT, 1e-5) if plain(0.0) >= 0 else 0.0
        # The joint problem reaches further, and its slack foretells how far; then it is solved.
        near, far, width = low, low, 1e-3 * (low + 0.2)
        while far < LARGEST_SHIFT and slack(far) >= 0:
            near, far = far, min(1.2 * far + 0.1, LARGEST_SHIFT)
        if far == low:
            return low
        far = _last_by_secants(slack, near, far, width)
        if sharp(far) >= 0:
            return far
        return _last_by_secants(sharp, low, far, 5 * width)


def _last(room: Callable[[float], float], low: float, high: float, width: float) -> float:
    """By bisection, a point where the falling `room` is still >= 0, within `width`."""
    while high - low > width:
        middle = (low + high) / 2
        low, high = (middle, high) if room(middle) >= 0 else (low, middle)
    return low


def _last_by_secants(
    room: Callable[[float], float], low: float, high: float, width: float
) -> float:
    """The same where `room` is dear: regula falsi with halved ends (Illinois).

    `low` is taken to hold; `room(high)` may hold too.
    """
    at_low, at_high = max(room(low), 0.0), room(high)
    if at_high >= 0:
        return high
    side = 0
    while high - low > width:
        share = min(max(at_low / (at_low - at_high), 0.1), 0.9)
        middle = low + share * (high - low)
        found = room(middle)
        if found >= 0:
            low, at_low = middle, found
            at_high, side = (at_high / 2 if side > 0 else at_high), 1
        else:
            high, at_high = middle, found
            at_low, side = (at_low / 2 if side < 0 else at_low), -1
    return low
