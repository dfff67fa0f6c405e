"""What an attacker differentiates: pixel levels -> features, with or without the defence.

The plain attacker knows the encoder alone. The adaptive one goes through everything that is served,
purifier, mapper and the mean of noisy features, with fresh noise in every step (expectation over
transformation, Athalye et al. 2018, arXiv:1707.07397; Salman et al. 2019, arXiv:1906.04584).
"""

import copy
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn import functional

from service.models.gradients import quicken
from service.models.loaded import LoadedModel
from service.models.pipeline import Parts, Pipeline, unit


def differentiable(pipeline: Pipeline) -> Pipeline:
    """A copy in float32 whose input has gradients, fast on a CPU; its weights have none."""
    twin = copy.deepcopy(pipeline).float().requires_grad_(False)
    twin.dtype = torch.float32
    quicken(twin)
    return twin


@dataclass(slots=True)
class Seen:
    """Unit features of candidates, as an attacker computes them.

    Attributes:
        pipeline: differentiable; the bare encoder's, or the served one.
        sigma: of the noise; 0: none is drawn, and purifier and mapper are the identity.
        draws: noisy features whose mean is taken.
        generator: of the attacker's own noise.
        size: (H, W) that pictures are resized to first, bilinearly; None: they fit.
    """

    pipeline: Pipeline
    sigma: float = 0.0
    draws: int = 1
    generator: torch.Generator = field(default_factory=lambda: torch.Generator().manual_seed(0))
    size: tuple[int, int] | None = None

    def __call__(self, levels: Tensor) -> Tensor:
        """Pixel levels [n, 3, H, W] -> unit features [n, d], with gradients."""
        if self.size is not None and self.size != tuple(levels.shape[2:]):
            levels = functional.interpolate(
                levels, self.size, mode="bilinear", align_corners=False, antialias=True
            )
        if self.sigma == 0:
            return unit(self.pipeline.features(levels, levels.new_zeros(len(levels))))
        noisy = levels.repeat_interleave(self.draws, dim=0)
        noise = torch.randn(noisy.shape, generator=self.generator, device=noisy.device)
        noisy = noisy + 255 * self.sigma * noise
        features = self.pipeline.features(noisy, noisy.new_full((len(noisy),), self.sigma))
        return unit(unit(features).view(len(levels), self.draws, -1).mean(1))


def bare(model: LoadedModel) -> Pipeline:
    """The model's encoder without purifier and mapper: what a plain attacker knows."""
    return model.around(Parts(model.pipeline.encoder)).pipeline
