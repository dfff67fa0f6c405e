"""What is certified of a clean picture under a defence, and whether an attack contradicts it."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from service.certificate.votes import count_votes
from service.evaluation.certificates import certified
from service.evaluation.rescore import cosine_upper
from service.evaluation.robustness.defences import Defence
from service.evaluation.robustness.tasks import Tasks
from service.types import NoiseLevel, SamplingPlan, Stage

_CONFIDENCE = 0.999
_VERDICT_ALPHA = 1e-4


@dataclass(frozen=True, slots=True)
class Certified:
    """Of one clean picture.

    Attributes:
        embedding: that the bounds speak of, [d].
        bounds: lower bound on its cosine with every F(x') within each l2 radius; -1: none.
        radius: within which the class that is voted on is certified; 0: abstained.
        label: that class; None where no votes were asked.
    """

    embedding: NDArray[np.float32]
    bounds: dict[float, float]
    radius: float
    label: str | None

    def bound(self, distance: float) -> float:
        """What is certified at an l2 distance: the bound of the least radius that covers it."""
        covering = [radius for radius in self.bounds if radius >= distance]
        return self.bounds[min(covering)] if covering else -1.0

    def contradicted(self, features: NDArray[np.float32], distance: float) -> bool:
        """Whether fresh features [n, d] of a picture at this distance convict the certificate."""
        bound = self.bound(distance)
        return bound > -1 and cosine_upper(features, self.embedding, _VERDICT_ALPHA) < bound


def certify(
    defence: Defence,
    x: NDArray[np.uint8],
    radii: Sequence[float],
    estimation: int,
    votes: int,
    tasks: Tasks,
    seed: bytes,
) -> Certified:
    """Certify a picture as the service would: selection, then fresh samples; votes from others.

    Args:
        defence: with noise.
        x: uint8 [3, H, W].
        radii: l2, RGB in [0, 1].
        estimation: samples of the certificate.
        votes: draws that vote on the class; 0 for none.
        tasks: of the model.
        seed: of this noise.
    """
    plan = SamplingPlan(
        noise=NoiseLevel(defence.sigma),
        radii=tuple(radii),
        selection=defence.samples,
        estimation=estimation,
        confidence=_CONFIDENCE,
        certify=True,
        priority=0,
        target=None,
        checkpoints=(estimation,),
    )
    embedding, findings = certified(defence.model, x, plan, seed, sampler=defence.sampler)
    bounds = {one.radius: one.bound for one in findings.bounds}
    label, radius = (None, 0.0) if not votes else _voted(defence, x, votes, tasks, seed)
    return Certified(embedding, bounds, radius, label)


def _voted(
    defence: Defence, x: NDArray[np.uint8], votes: int, tasks: Tasks, seed: bytes
) -> tuple[str, float]:
    """The class of what is shown, and the radius that single draws certify it to."""
    label = tasks.label(defence.show(x, seed))
    others = bytes(byte ^ 0xFF for byte in seed)  # not the noise of what is shown
    found = tasks.votes(*defence.draw(x, others, Stage.SELECT, votes))
    agreeing = sum(vote == label for vote in found)
    return label, count_votes(agreeing, votes, defence.sigma, 1 - _CONFIDENCE).radius
