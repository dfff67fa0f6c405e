"""What the loop trains: a module, its loss over scenes, its score on scenes kept from it."""

from collections.abc import Mapping
from typing import Any, Protocol

import torch
from torch import Tensor, nn


class Task(Protocol):
    """A module to be trained around a frozen encoder."""

    @property
    def module(self) -> nn.Module:
        """Whose parameters are trained."""

    @property
    def identity(self) -> Mapping[str, Any]:
        """All that decides what is learned, as JSON: two runs that differ in it are not one."""

    def loss(self, module: nn.Module, levels: Tensor, noise: torch.Generator) -> Tensor:
        """Of a batch.

        Args:
            module: `self.module`, as it may be wrapped for several devices.
            levels: uint8 [n, 3, H, W] on the module's device.
            noise: of sigmas and noise; on the same device.
        """

    def score(self, module: nn.Module) -> dict[str, float]:
        """On validation scenes, `score` first: the larger, the better."""


def draw_sigmas(sigmas: Tensor, count: int, noise: torch.Generator) -> Tensor:
    """One of the levels for each row, all alike likely."""
    chosen = torch.randint(len(sigmas), (count,), generator=noise, device=sigmas.device)
    return sigmas[chosen]


def add_gaussian(pictures: Tensor, sigmas: Tensor, noise: torch.Generator) -> Tensor:
    """Pictures [n, 3, H, W] plus noise of each row's sigma, not clipped."""
    drawn = torch.randn(pictures.shape, generator=noise, device=pictures.device)
    return pictures + sigmas.view(-1, 1, 1, 1) * drawn
