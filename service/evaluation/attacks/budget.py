"""What an attacker may change of a picture: a ball around it, of 8-bit pictures."""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from service.evaluation import lattice

Norm = Literal["l2", "linf"]


@dataclass(frozen=True, slots=True)
class Budget:
    """All pictures within `epsilon` of one, in a norm over all pixels and channels.

    Attributes:
        epsilon: RGB in [0, 1]; for l-infinity n/255 is n levels of every value.
    """

    norm: Norm
    epsilon: float

    def project(self, change: Tensor, image: Tensor) -> Tensor:
        """A change [n, 3, H, W] of an image [3, H, W], pixel levels, into ball and box."""
        if self.norm == "l2":
            return lattice.project(change, image, 255 * self.epsilon)
        reach = 255 * self.epsilon
        return (image + change.clamp(-reach, reach)).clamp(0, 255) - image

    def to_levels(self, change: Tensor, image: Tensor) -> Tensor:
        """The whole-numbered change that goes the same way as far as the ball allows."""
        if self.norm == "l2":
            return lattice.to_levels(change, image, 255 * self.epsilon)
        reach = math.floor(255 * self.epsilon + 1e-9)
        return (image + change.round().clamp(-reach, reach)).clamp(0, 255) - image

    def steepest(self, gradient: Tensor) -> Tensor:
        """The direction [n, 3, H, W] that gains most for a step of length 1 in this norm."""
        if self.norm == "l2":
            return nn.functional.normalize(gradient.flatten(1)).view_as(gradient)
        return gradient.sign()

    def random(self, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        """Changes [n, 3, H, W] all over the ball's boundary."""
        found = torch.randn(shape, generator=generator, device=generator.device)
        return 255 * self.epsilon * self.steepest(found)

    def holds(self, image: NDArray[np.uint8], other: NDArray[np.uint8]) -> bool:
        """Whether one 8-bit picture is within the ball around another, exactly."""
        change = other.astype(np.int64) - image.astype(np.int64)
        if self.norm == "l2":
            return int((change * change).sum()) <= (255 * self.epsilon) ** 2 * (1 + 1e-9)
        return int(np.abs(change).max()) <= 255 * self.epsilon * (1 + 1e-9)


def l2_distance(image: NDArray[np.uint8], other: NDArray[np.uint8]) -> float:
    """Exact l2 distance of two 8-bit pictures, RGB in [0, 1]; what a certificate speaks of."""
    change = other.astype(np.int64) - image.astype(np.int64)
    return math.sqrt(int((change * change).sum())) / 255
