"""How an attacker gets there: projected gradient descent, and its parameter-free kin.

Losses are taken at the 8-bit picture that would be handed in, gradients straight through the
rounding. Where the loss is noisy, restarts are judged on several evaluations of their own.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from service.evaluation.attacks.budget import Budget
from service.evaluation.attacks.objectives import Objective

Method = Literal["pgd", "apgd"]
_MOMENTUM = 0.75  # of the last change, in both


@dataclass(frozen=True, slots=True)
class Effort:
    """How hard an attacker tries.

    Attributes:
        method: see the functions below.
        steps: gradient steps of every restart.
        restarts: the first starts at the picture, the others anywhere in the ball.
        step: length of PGD's first step as a share of epsilon; falls to a tenth of it.
        judgements: evaluations of the loss that choose among the restarts.
    """

    method: Method = "pgd"
    steps: int = 20
    restarts: int = 1
    step: float = 0.5
    judgements: int = 1


def attack(
    image: NDArray[np.uint8], objective: Objective, budget: Budget, effort: Effort, seed: int
) -> NDArray[np.uint8]:
    """The 8-bit picture of the ball around an image with the least loss found.

    Args:
        image: x, uint8 [3, H, W].
        objective: to be made small.
        budget: the ball.
        effort: of the attacker.
        seed: of the restarts.
    """
    x = torch.from_numpy(image.astype(np.float32))
    generator = torch.Generator().manual_seed(seed)
    start = budget.random((effort.restarts, *x.shape), generator)
    # A smoothed loss has a gradient at x; one that is least or greatest there has none, so the
    # first step of such an attack is a random one.
    start[0] *= 1e-3
    start = budget.project(start, x)
    go = {"pgd": _pgd, "apgd": _apgd}[effort.method]
    final = budget.to_levels(go(x, start, objective, budget, effort), x)
    with torch.no_grad():
        losses = torch.stack([objective(x + final) for _ in range(effort.judgements)]).mean(0)
    best = final[int(losses.argmin())]
    return (x + best).numpy().astype(np.uint8)


def _pgd(x: Tensor, change: Tensor, objective: Objective, budget: Budget, effort: Effort) -> Tensor:
    """Projected gradient descent (Madry et al. 2018, arXiv:1706.06083), with momentum."""
    drift = torch.zeros_like(change)
    for step in range(effort.steps):
        _, gradient = _evaluate(x, change, objective, budget)
        drift = _MOMENTUM * drift + budget.steepest(gradient)
        length = effort.step * (1 - 0.9 * step / effort.steps) * 255 * budget.epsilon
        change = budget.project(change - length * budget.steepest(drift), x)
    return change


def _apgd(
    x: Tensor, change: Tensor, objective: Objective, budget: Budget, effort: Effort
) -> Tensor:
    """Auto-PGD (Croce & Hein 2020, arXiv:2003.01690, algorithm 1), all restarts at once.

    The step begins at 2 epsilon and is halved, from the best point so far, at checkpoints where too
    few steps gained anything, or where neither step nor best loss changed since the last one.
    """
    n = len(change)
    length = torch.full((n,), 2 * 255 * budget.epsilon)
    loss, gradient = _evaluate(x, change, objective, budget)
    best, best_loss, best_gradient = change.clone(), loss.clone(), gradient.clone()
    before = change.clone()
    gained = torch.zeros(n)
    halved, best_then = torch.zeros(n, dtype=torch.bool), loss.clone()
    checks, last = _checkpoints(effort.steps), 0
    for k in range(effort.steps):
        moved = change - length.view(-1, 1, 1, 1) * budget.steepest(gradient)
        moved = budget.project(moved, x)
        if k:
            pulled = change + _MOMENTUM * (moved - change) + (1 - _MOMENTUM) * (change - before)
            moved = budget.project(pulled, x)
        before, change = change, moved
        previous = loss
        loss, gradient = _evaluate(x, change, objective, budget)
        gained += loss < previous
        better = loss < best_loss
        best[better], best_loss[better] = change[better], loss[better]
        best_gradient[better] = gradient[better]
        if k + 1 in checks:
            few = gained < 0.75 * (k + 1 - last)
            stuck = ~halved & (best_then <= best_loss)
            halved = few | stuck
            length = torch.where(halved, length / 2, length)
            change[halved], gradient[halved] = best[halved], best_gradient[halved]
            loss = torch.where(halved, best_loss, loss)
            before[halved] = best[halved]
            best_then, last, gained = best_loss.clone(), k + 1, torch.zeros(n)
    return best


def _checkpoints(steps: int) -> set[int]:
    """After 22 % of the steps, then after 3 % less each time, at least 6 %."""
    places, at, gap = set(), 0.0, 0.22
    while at < 1:
        at += gap
        gap = max(gap - 0.03, 0.06)
        places.add(max(1, int(at * steps + 0.5)))
    return places


def _evaluate(
    x: Tensor, change: Tensor, objective: Objective, budget: Budget
) -> tuple[Tensor, Tensor]:
    """Losses [n] and their gradients at the 8-bit pictures nearest to these changes."""
    candidate = (x + budget.to_levels(change, x)).requires_grad_()
    losses = objective(candidate)
    (gradient,) = torch.autograd.grad(losses.sum(), candidate)
    return losses.detach(), gradient
