"""8-bit pictures inside an l2 ball: what an attack may hand in."""

import torch
from torch import Tensor

# Squared distances are whole numbers of levels; the slack is for the rounding of 255·epsilon alone.
_SLACK = 1e-9
_HALVINGS = 25


def project(change: Tensor, image: Tensor, budget: float) -> Tensor:
    """Into the l2 ball, then into the box of pixel levels; the box is no further from the image.

    Args:
        change: real-valued x' - x in pixel levels, [n, 3, H, W].
        image: x, pixel levels 0 to 255, [3, H, W].
        budget: 255·epsilon, radius of the ball in pixel levels.
    """
    norms = change.flatten(1).norm(dim=1).clamp_min(1e-12)
    change = change * (budget / norms).clamp_max(1.0)[:, None, None, None]
    return (image + change).clamp(0, 255) - image


def to_levels(change: Tensor, image: Tensor, budget: float) -> Tensor:
    """The whole-numbered change of the same direction that fills the ball.

    Rounding itself would erase a small change: at epsilon = 0.06 no pixel moves by half a level.
    The change is scaled before it is rounded, as far as the ball allows. No lattice point of that
    norm or less has a larger inner product with `change`: a pixel's step k -> k + 1 gains |g| and
    costs 2k + 1 of the squared budget, so the best steps are those of largest |g| / (2k + 1),
    which is what rounding g at a common scale takes.

    Args:
        change: real-valued x' - x in pixel levels, [n, 3, H, W].
        image: x, pixel levels 0 to 255, [3, H, W].
        budget: 255·epsilon, radius of the ball in pixel levels.

    Returns:
        Whole numbers [n, 3, H, W], with image + result in 0 ... 255 and norm at most `budget`.
    """

    def rounded(scale: Tensor) -> Tensor:
        return (image + (change * scale[:, None, None, None]).round()).clamp(0, 255) - image

    def inside(candidate: Tensor) -> Tensor:
        return candidate.double().square().sum((1, 2, 3)) <= budget * budget * (1 - _SLACK)

    peak = change.abs().amax((1, 2, 3)).clamp_min(1e-12)
    low, high = torch.zeros_like(peak), (budget + 1) / peak
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        fits = inside(rounded(middle))
        low, high = torch.where(fits, middle, low), torch.where(fits, high, middle)
    return rounded(low)
