"""What the loop trains: a module, its loss over scenes, its score on scenes kept from it."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from service.training.objectives import cosines

_VALIDATION_BATCH = 16


class Batch(Protocol):
    """Examples of one forward pass."""

    def to(self, device: torch.device) -> "Batch":
        """The same where it is computed."""


class Examples(Protocol):
    """Endless examples; number i is the same in every run."""

    def batch(self, indices: Sequence[int]) -> Batch:
        """Those of these numbers."""


class Task(Protocol):
    """A module to be trained around a frozen encoder."""

    @property
    def module(self) -> nn.Module:
        """Whose parameters are trained."""

    @property
    def identity(self) -> Mapping[str, Any]:
        """All that decides what is learned, as JSON: two runs that differ in it are not one."""

    def loss(self, module: nn.Module, batch: Any, noise: torch.Generator) -> Tensor:
        """Of a batch.

        Args:
            module: `self.module`, as it may be wrapped for several devices.
            batch: of the examples it is trained on, on the module's device.
            noise: of sigmas and noise; on the same device.
        """

    def score(self, module: nn.Module) -> dict[str, float]:
        """On validation scenes, `score` first: the larger, the better."""


def mean_cosines(
    sigmas: Sequence[float],
    validation: Tensor,
    features: Callable[[Tensor, Tensor, torch.Generator], tuple[Tensor, Tensor]],
) -> dict[str, float]:
    """Mean cosine of noisy and clean features at each level, and `score`, their mean.

    Args:
        sigmas: levels.
        validation: scenes, uint8 [n, 3, H, W].
        features: scenes, the sigma of each and a source of noise -> features without noise, and
            those that should be near them, [n, d] each.
    """
    found = {}
    for sigma in sorted(set(sigmas)):
        noise = torch.Generator(validation.device).manual_seed(0)
        parts = []
        for levels in torch.split(validation, _VALIDATION_BATCH):
            told = torch.full((len(levels),), sigma, device=levels.device)
            clean, noisy = features(levels, told, noise)
            parts.append(cosines(noisy, clean))
        found[f"cos@{sigma:g}"] = float(torch.cat(parts).mean())
    return {"score": sum(found.values()) / len(found), **found}


def draw_sigmas(sigmas: Tensor, count: int, noise: torch.Generator) -> Tensor:
    """One of the levels for each row, all alike likely."""
    chosen = torch.randint(len(sigmas), (count,), generator=noise, device=sigmas.device)
    return sigmas[chosen]


def add_gaussian(pictures: Tensor, sigmas: Tensor, noise: torch.Generator) -> Tensor:
    """Pictures [n, 3, H, W] plus noise of each row's sigma, not clipped."""
    drawn = torch.randn(pictures.shape, generator=noise, device=pictures.device)
    return pictures + sigmas.view(-1, 1, 1, 1) * drawn
