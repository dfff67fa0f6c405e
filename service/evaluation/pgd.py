"""l2-PGD through the smoothing: the adaptive adversary of `fcs prove`.

Projected gradient descent (Madry et al. 2018, arXiv:1706.06083) on the cosine between the
embedding and the mean of m noisy features, with fresh noise in every step (expectation over
transformation, Athalye et al. 2018, arXiv:1707.07397; for smoothed models Salman et al. 2019,
arXiv:1906.04584). The loss is evaluated at the 8-bit picture that would be handed in, its gradient
taken straight through the rounding.
"""

import copy
import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from service.evaluation.lattice import project, to_levels
from service.models.pipeline import Pipeline, unit


class Twin(nn.Module):
    """The served function with gradients: the same weights and normalisation in float32."""

    def __init__(self, pipeline: Pipeline) -> None:
        super().__init__()
        self.pipeline: Pipeline = copy.deepcopy(pipeline).float()
        self.pipeline.dtype = torch.float32
        self.device = pipeline.device

    def forward(self, levels: Tensor, sigma: float) -> Tensor:
        """Pixel levels [n, 3, H, W], with noise of sigma -> unit features [n, d], float32."""
        sigmas = levels.new_full((len(levels),), sigma)
        return unit(self.pipeline.features(levels, sigmas))


@dataclass(frozen=True, slots=True)
class AttackPlan:
    """How hard the adversary tries.

    Attributes:
        steps: gradient steps of one restart.
        draws: m, noisy features behind each gradient.
        restarts: the first starts at x (a smoothed model has a gradient there), the others at
            random points of the sphere.
        momentum: share of the last direction that is kept; averages the gradient's own noise.
        step: length of the first step as a share of epsilon; falls to a tenth of it.
        judges: noisy features that choose among the restarts, on noise of their own.
    """

    steps: int = 20
    draws: int = 20
    restarts: int = 2
    momentum: float = 0.7
    step: float = 0.5
    judges: int = 100


def attack(
    twin: Twin,
    image: NDArray[np.uint8],
    target: NDArray[np.float32],
    epsilon: float,
    sigma: float,
    plan: AttackPlan,
    seed: int,
) -> NDArray[np.uint8]:
    """The 8-bit picture within epsilon of x whose smoothed feature the attack turned furthest.

    Args:
        twin: differentiable pipeline.
        image: x, uint8 [3, H, W].
        target: the embedding u to be left, unit norm, [d].
        epsilon: l2 budget over all pixels and channels, RGB in [0, 1].
        sigma: noise of the smoothing in the same unit; 0 attacks the bare encoder.
        plan: effort.
        seed: of the attacker's own noise.

    Returns:
        x', uint8 [3, H, W], with ‖x' - x‖₂ <= 255·epsilon levels.
    """
    device = twin.device
    noise = torch.Generator(device).manual_seed(seed)
    x = torch.from_numpy(image.astype(np.float32)).to(device)
    u = torch.from_numpy(target.astype(np.float32)).to(device)
    budget = 255 * epsilon
    draws, judges = (plan.draws, plan.judges) if sigma > 0 else (1, 1)

    def cosines(candidates: Tensor, count: int) -> Tensor:
        """cos(u, mean of `count` features) of each candidate change, [r, 3, H, W] -> [r]."""
        noisy = (x + candidates).repeat_interleave(count, dim=0)
        if sigma > 0:
            noisy = noisy + 255 * sigma * torch.randn(noisy.shape, generator=noise, device=device)
        features: Tensor = twin(noisy, sigma)
        means = features.view(len(candidates), count, -1).mean(1)
        return nn.functional.cosine_similarity(means, u[None])

    def judged(candidates: Tensor) -> Tensor:
        with torch.no_grad():
            pieces = math.ceil(judges / draws)
            return torch.stack([cosines(candidates, draws) for _ in range(pieces)]).mean(0)

    change = torch.randn((plan.restarts, *x.shape), generator=noise, device=device)
    change = change * (budget / change.flatten(1).norm(dim=1))[:, None, None, None]
    if sigma > 0:
        change[0] = 0
    change = project(change, x, budget)
    drift = torch.zeros_like(change)
    for step in range(plan.steps):
        candidate = to_levels(change, x, budget).requires_grad_()
        (gradient,) = torch.autograd.grad(cosines(candidate, draws).sum(), candidate)
        drift = plan.momentum * drift + _normalised(gradient)
        length = plan.step * (1 - 0.9 * step / plan.steps) * budget
        change = project(change - length * _normalised(drift), x, budget)
    final = to_levels(change, x, budget)
    best = final[int(judged(final).argmin())]
    return (x + best).cpu().numpy().astype(np.uint8)


def random_neighbour(image: NDArray[np.uint8], epsilon: float, seed: int) -> NDArray[np.uint8]:
    """An 8-bit picture in a random direction that fills the same ball: what an attack must beat."""
    x = torch.from_numpy(image.astype(np.float32))
    direction = torch.randn((1, *x.shape), generator=torch.Generator().manual_seed(seed))
    return (x + to_levels(direction, x, 255 * epsilon)[0]).numpy().astype(np.uint8)


def _normalised(direction: Tensor) -> Tensor:
    return nn.functional.normalize(direction.flatten(1)).view_as(direction)
