"""What votes of noisy views prove: how far from x most noise goes on voting for one answer.

Randomized smoothing (Cohen, Rosenfeld & Kolter 2019, arXiv:1902.02918, theorem 1), with the answer
fixed before any vote; the argument is in docs/answers.md, "Closed answers".
"""

import math
from dataclasses import dataclass

from scipy.special import ndtri

from service.certificate.intervals import clopper_pearson_lower

_ROUNDING = 1e-9  # far above that of the normal quantile, relative


@dataclass(frozen=True, slots=True)
class VoteFindings:
    """What the votes on one answer prove.

    Attributes:
        lower: lower confidence bound on the probability of a vote for it.
        radius: l2 distance within which that probability stays above one half, rounded down; 0 when
            it is not certain to be there already.
    """

    lower: float
    radius: float


def count_votes(agreeing: int, votes: int, sigma: float, alpha: float) -> VoteFindings:
    """Judge an answer by independent votes, each from noise of its own.

    Args:
        agreeing: votes for the answer, which was fixed without looking at any.
        votes: all of them, a number fixed beforehand.
        sigma: noise level; the radius comes in the same unit.
        alpha: probability, over the noise, that the finding is wrong.
    """
    lower = clopper_pearson_lower(agreeing, votes, alpha)
    if lower <= 0.5:
        return VoteFindings(lower, 0.0)
    return VoteFindings(lower, max(0.0, sigma * float(ndtri(lower)) * (1 - _ROUNDING)))


def fewest_votes(alpha: float) -> int:
    """Below so many votes nothing can be certified at this alpha, even if all agree."""
    return math.floor(math.log(alpha) / math.log(0.5)) + 1
