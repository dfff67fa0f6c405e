"""Evidence -> Findings: the three events A, B, C share alpha, once (docs/certificate.md).

With probability at least 1 - alpha over the estimation sample, every bound about F holds at every
shift at once. The robustness score (and with it the `paper` column) and the served bound are
statements beside it, each at an alpha of its own.
"""

import math
from dataclasses import dataclass

import numpy as np

from service.certificate.bounds import Cone, Floats, mean_upper, paper_bound
from service.certificate.intervals import clopper_pearson_lower, kl_lower
from service.certificate.spectrum import second_moment_upper
from service.certificate.tally import Evidence
from service.types import CertifiedRadius, Method, RadiusBound, Score

# Shares of alpha for the law of s, lambda and mu: measured, docs/log.md.
_LAW, _SECOND_MOMENT, _MEAN = 0.7, 0.2, 0.1
_LOWEST_THRESHOLD_SHARE = 0.5
RADIUS_THRESHOLD = 0.5


@dataclass(frozen=True, slots=True)
class Findings:
    """What the samples prove about one picture."""

    cone: Cone
    bounds: tuple[RadiusBound, ...]
    certified_radius: CertifiedRadius
    score: Score


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


def certify(evidence: Evidence, sigma: float, radii: tuple[float, ...], alpha: float) -> Findings:
    """All bounds of one picture.

    Args:
        evidence: from a complete tally.
        sigma: noise level, RGB in [0, 1].
        radii: l2 attack sizes in the same unit, each >= 0.
        alpha: 1 - confidence, in (0, 1).

    Returns:
        bounds in the order of `radii`; see `service.types.RadiusBound` for what each one promises.
    """
    cone = cone_of(evidence, alpha)
    n = len(evidence.projections)
    gains = (1 + evidence.reference_cosines) / 2
    mean = float(np.clip(gains.mean(), 0.0, 1.0))
    score = Score(estimate=mean, lower=kl_lower(mean, math.log(1 / alpha) / n))

    angles = _falling_angles(cone, {radius: radius / sigma for radius in radii})

    def at(radius: float) -> RadiusBound:
        shift = radius / sigma
        angle, method = angles[radius]
        bound = -1.0 if method == "none" else math.cos(angle)
        served = cone.served_bound(shift, angle, evidence.selection, alpha)
        return RadiusBound(radius, bound, served, paper_bound(score.lower, shift), method)

    bounds = tuple(at(radius) for radius in radii)
    reached = [b.radius for b in bounds if b.bound >= RADIUS_THRESHOLD]
    largest = max([sigma * cone.largest_shift(RADIUS_THRESHOLD), *reached])
    return Findings(cone, bounds, CertifiedRadius(RADIUS_THRESHOLD, largest), score)


def _falling_angles(cone: Cone, shifts: dict[float, float]) -> dict[float, tuple[float, Method]]:
    """The angle at each radius; what holds at a larger one holds at every smaller one."""
    found: dict[float, tuple[float, Method]] = {}
    best: tuple[float, Method] = (math.pi, "none")
    for radius in sorted(shifts, reverse=True):
        best = min(best, cone.angle(shifts[radius]), key=lambda pair: pair[0])
        found[radius] = best
    return found
