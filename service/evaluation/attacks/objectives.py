"""What an attacker wants: losses of candidate pictures, to be made small.

Each is bound to one attacked picture, and where it is targeted, to one target picture. Features are
unit vectors, from any `Seen`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from service.evaluation.attacks.seen import Seen

Objective = Callable[[Tensor], Tensor]  # levels [n, 3, H, W] -> losses [n]

_LEAST_CROP, _MOST_CROP = 0.5, 1.0  # M-Attack's share of the side
_SINKHORN_STEPS = 20
_SINKHORN_TEMPERATURE = 0.1
_LOCAL = 0.2  # FOA's weight of the local term


@dataclass(frozen=True, slots=True)
class Displacement:
    """Untargeted: leave the picture's own feature; the loss is the cosine with it."""

    seen: Seen
    feature: Tensor  # [d], unit norm

    def __call__(self, levels: Tensor) -> Tensor:
        """Losses [n] of pixel levels [n, 3, H, W]."""
        return self.seen(levels) @ self.feature


@dataclass(frozen=True, slots=True)
class Matching:
    """AttackVLM, image to image (Zhao et al. 2023, arXiv:2305.16934): a target's feature."""

    seen: Seen
    target: Tensor  # [d], unit norm

    def __call__(self, levels: Tensor) -> Tensor:
        """Losses [n] of pixel levels [n, 3, H, W]."""
        return -self.seen(levels) @ self.target


@dataclass(frozen=True, slots=True)
class CropMatching:
    """M-Attack style: random local crops matched to the target's, by an ensemble of surrogates.

    After Li et al. 2025 (arXiv:2503.10635): in every step one crop of each candidate, of half to
    the whole of its side, is resized and matched to such a crop of the target.

    Attributes:
        ensemble: surrogates, each of which sees the same crops.
        target: pixel levels [3, H, W].
        generator: of the crops.
    """

    ensemble: Sequence[Seen]
    target: Tensor
    generator: torch.Generator

    def __call__(self, levels: Tensor) -> Tensor:
        """Losses [n] of pixel levels [n, 3, H, W]."""
        ours = torch.cat([self._crop(one[None]) for one in levels])
        theirs = torch.cat([self._crop(self.target[None]) for _ in levels])
        losses = []
        for seen in self.ensemble:
            with torch.no_grad():
                wanted = seen(theirs)
            losses.append(-(seen(ours) * wanted).sum(1))
        return torch.stack(losses).mean(0)

    def _crop(self, picture: Tensor) -> Tensor:
        """A random square of a picture [1, 3, H, W], at the size of the whole."""
        size = picture.shape[2:]
        share = _LEAST_CROP + (_MOST_CROP - _LEAST_CROP) * self._random()
        height, width = (max(1, round(share * side)) for side in size)
        top, left = (
            int(self._random() * (whole - part + 1))
            for whole, part in zip(size, (height, width), strict=True)
        )
        part = picture[:, :, top : top + height, left : left + width]
        return functional.interpolate(part, size, mode="bilinear", align_corners=False)

    def _random(self) -> float:
        return float(torch.rand((), generator=self.generator))


@dataclass(frozen=True, slots=True)
class TokenMatching:
    """FOA style: the whole feature, and the local tokens by optimal transport.

    After Jia et al. 2025 (arXiv:2505.21494): global cosine, and the cost of moving the candidate's
    tokens onto the target's (Sinkhorn, Cuturi 2013, arXiv:1306.0895). Clusters of tokens, which the
    original makes first, are left out: the maps here have few tokens.

    Attributes:
        seen: whose features are whole token maps.
        shape: (T, D) of the map.
        target: [T * D], unit norm.
    """

    seen: Seen
    shape: tuple[int, int]
    target: Tensor

    def __call__(self, levels: Tensor) -> Tensor:
        """Losses [n] of pixel levels [n, 3, H, W]."""
        features = self.seen(levels)
        ours = nn.functional.normalize(features.view(-1, *self.shape), dim=2)
        theirs = nn.functional.normalize(self.target.view(self.shape), dim=1)
        cost = 1 - ours @ theirs.T  # [n, T, T]
        moved = transport(cost.detach(), _SINKHORN_TEMPERATURE, _SINKHORN_STEPS)
        local = (moved * cost).sum((1, 2))
        return -features @ self.target + _LOCAL * local


def average(objectives: Sequence[Objective]) -> Objective:
    """The mean of several losses: of an ensemble of surrogates."""

    def losses(levels: Tensor) -> Tensor:
        return torch.stack([one(levels) for one in objectives]).mean(0)

    return objectives[0] if len(objectives) == 1 else losses


def transport(cost: Tensor, temperature: float, steps: int) -> Tensor:
    """The entropic optimal transport plan between uniform tokens, [n, T, S] for costs [n, T, S]."""
    rows, columns = cost.shape[1:]
    kernel = -cost / temperature
    row = kernel.new_zeros(len(cost), rows, 1)
    column = kernel.new_zeros(len(cost), 1, columns)
    for _ in range(steps):
        row = -torch.logsumexp(kernel + column, 2, keepdim=True) - float(torch.tensor(rows).log())
        column = -torch.logsumexp(kernel + row, 1, keepdim=True) - float(
            torch.tensor(columns).log()
        )
    return (kernel + row + column).exp()
