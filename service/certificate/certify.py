"""Evidence -> Findings: the three events A, B, C share alpha, once (docs/certificate.md).

With probability at least 1 - alpha over the estimation sample, every bound about F holds at every
shift at once. The robustness score (and with it the `paper` column) and the served bound are
statements beside it, each at an alpha of its own.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from service.certificate.bounds import Cone, Floats, mean_upper, paper_bound
from service.certificate.evidence import Evidence
from service.certificate.intervals import betting_lower, clopper_pearson_lower
from service.certificate.spectrum import second_moment_upper
from service.types import CertifiedRadius, Method, RadiusBound, Score, Target

# Shares of alpha for the law of s, lambda and mu: measured, docs/log.md.
_LAW, _SECOND_MOMENT, _MEAN = 0.7, 0.2, 0.1
_LOWEST_THRESHOLD_SHARE = 0.5
RADIUS_THRESHOLD = 0.5


@dataclass(frozen=True, slots=True)
class Findings:
    """What the samples prove about one picture.

    Attributes:
        samples: estimation samples used.
        angles: by shift, of the asked radii.
    """

    cone: Cone
    bounds: tuple[RadiusBound, ...]
    certified_radius: CertifiedRadius
    score: Score
    samples: int
    angles: dict[float, float]

    def bound_at(self, shift: float) -> float:
        """The bound at shift r, -1 if vacuous; free where it is among the asked ones."""
        if (angle := self.angles.get(shift)) is None:
            angle, _ = self.cone.angle(shift)
        return math.cos(angle)


def cone_of(evidence: Evidence, alpha: float) -> Cone:
    """The joint event at level alpha, shared by A (law), B (lambda) and C (mu)."""
    n = len(evidence.projections)
    second_moment = second_moment_upper(evidence.spectrum, n, _SECOND_MOMENT * alpha)
    mean = mean_upper(evidence.mean_norm, second_moment, math.log(1 / (_MEAN * alpha)), n)
    return Cone(
        thresholds=evidence.thresholds,
        survival=survival_lower(evidence.projections, evidence.thresholds, _LAW * alpha),
        second_moment=second_moment,
        mean=mean,
    )


def survival_lower(projections: Floats, thresholds: Floats, alpha: float) -> Floats:
    """Event A: lower bounds on P(s >= t_k), jointly at level alpha (Clopper-Pearson, union bound).

    Half of alpha goes to the lowest threshold: with narrow laws that one carries the bound.
    """
    others = len(thresholds) - 1
    first = _LOWEST_THRESHOLD_SHARE if others else 1.0
    levels = [alpha * first] + [alpha * (1 - first) / max(others, 1)] * others
    return np.array(
        [
            clopper_pearson_lower(int((projections >= t).sum()), len(projections), level)
            for t, level in zip(thresholds, levels, strict=True)
        ]
    )


def certify(
    evidence: Evidence,
    sigma: float,
    radii: tuple[float, ...],
    alpha: float,
    *,
    cone_alpha: float | None = None,
    reached: Target | None = None,
) -> Findings:
    """All bounds of one picture.

    Args:
        evidence: from a complete tally.
        sigma: noise level, RGB in [0, 1].
        radii: l2 attack sizes in the same unit, each >= 0.
        alpha: 1 - confidence, in (0, 1).
        cone_alpha: the part of it that events A, B, C have at this look; None: all.
        reached: a target that holds already, by an event of its own.

    Returns:
        bounds in the order of `radii`; see `service.types.RadiusBound` for what each one promises.
    """
    cone = cone_of(evidence, alpha if cone_alpha is None else cone_alpha)
    n = len(evidence.projections)
    gains = (1 + evidence.reference_cosines) / 2
    score = Score(estimate=float(gains.mean()), lower=betting_lower(gains, alpha))

    angles = _falling_angles(cone.angle, {radius: radius / sigma for radius in radii})
    proved: tuple[float, Method] = (math.pi, "none")
    if reached is not None:
        proved = (math.acos(reached.bound), "directional")
        for radius in angles:
            if radius <= reached.radius:
                angles[radius] = min(angles[radius], proved, key=lambda pair: pair[0])

    def at(radius: float) -> RadiusBound:
        shift = radius / sigma
        angle, method = angles[radius]
        bound = -1.0 if method == "none" else math.cos(angle)
        if reached is not None and angles[radius] == proved:
            bound = reached.bound  # what was tested, not the cosine of its rounded angle
        served = cone.served_bound(shift, angle, evidence.selection, alpha)
        return RadiusBound(radius, bound, served, paper_bound(score.lower, shift), method)

    bounds = tuple(at(radius) for radius in radii)
    by_shift = {radius / sigma: angle for radius, (angle, _) in angles.items()}
    holding = [b.radius for b in bounds if b.bound >= RADIUS_THRESHOLD]
    if reached is not None and reached.bound >= RADIUS_THRESHOLD:
        holding.append(reached.radius)
    largest = max([sigma * cone.largest_shift(RADIUS_THRESHOLD), *holding])
    return Findings(cone, bounds, CertifiedRadius(RADIUS_THRESHOLD, largest), score, n, by_shift)


def bounds_so_far(
    evidence: Evidence, sigma: float, radii: tuple[float, ...], alpha: float
) -> dict[float, float]:
    """The bounds of `certify` at a look that goes on, from the closed forms alone.

    Args:
        evidence: of this look.
        sigma: noise level, RGB in [0, 1].
        radii: l2 attack sizes in the same unit, each >= 0.
        alpha: what events A, B, C have at this look.

    Returns:
        bound by radius, in the order of `radii`; -1 where nothing is certified.
    """
    cone = cone_of(evidence, alpha)
    angles = _falling_angles(cone.plain_angle, {radius: radius / sigma for radius in radii})
    return {
        radius: -1.0 if angles[radius][1] == "none" else math.cos(angles[radius][0])
        for radius in radii
    }


def _falling_angles(
    angle_at: Callable[[float], tuple[float, Method]], shifts: dict[float, float]
) -> dict[float, tuple[float, Method]]:
    """The angle at each radius; what holds at a larger one holds at every smaller one."""
    found: dict[float, tuple[float, Method]] = {}
    best: tuple[float, Method] = (math.pi, "none")
    for radius in sorted(shifts, reverse=True):
        best = min(best, angle_at(shifts[radius]), key=lambda pair: pair[0])
        found[radius] = best
    return found
