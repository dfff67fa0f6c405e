"""Training the purifier: l_diff + lambda_1 l_rb + lambda_2 l_mse, through the frozen encoder."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from service.models.pipeline import Pipeline
from service.models.purifier import Purifier
from service.training.objectives import denoising_loss, distance_loss, robustness_loss
from service.training.task import add_gaussian, draw_sigmas, mean_cosines


@dataclass(frozen=True, slots=True)
class PurifierWeights:
    """Of the losses: l_diff, l_rb (lambda_1) and l_mse (lambda_2); ours, the paper names none."""

    diffusion: float = 0.1
    robustness: float = 1.0
    distance: float = 1.0


class PurifierTask:
    """A purifier for one encoder.

    Args:
        purifier: to be trained.
        pipeline: without a purifier; its encoder in float32.
        sigmas: levels to train for; a level that is named twice is drawn twice as often.
        validation: scenes for the score, uint8 [n, 3, H, W].
        weights: of the losses.
        about: of the run, for its identity: encoder, data, architecture.
    """

    def __init__(
        self,
        purifier: Purifier,
        pipeline: Pipeline,
        sigmas: tuple[float, ...],
        validation: Tensor,
        weights: PurifierWeights,
        about: Mapping[str, Any],
    ) -> None:
        self.module: nn.Module = purifier
        self._pipeline = pipeline
        self._sigmas = sigmas
        self._validation = validation
        self._weights = weights
        self.identity = {**about, "sigmas": list(sigmas), "loss": asdict(weights)}

    def loss(self, module: nn.Module, levels: Tensor, noise: torch.Generator) -> Tensor:
        """Of a batch of scenes, each with its own sigma."""
        pictures = levels.float() / 255
        sigmas = draw_sigmas(pictures.new_tensor(self._sigmas), len(levels), noise)
        estimate = module(add_gaussian(pictures, sigmas, noise), sigmas)
        with torch.no_grad():
            clean = self._pipeline.encode(255 * pictures)
        features = self._pipeline.encode(255 * estimate)
        w = self._weights
        return (
            w.diffusion * denoising_loss(estimate, pictures, sigmas)
            + w.robustness * robustness_loss(features, clean)
            + w.distance * distance_loss(estimate, pictures)
        )

    @torch.no_grad()
    def score(self, module: nn.Module) -> dict[str, float]:
        """Mean cosine of f(P(x + noise)) and f(x), at each level and over all."""

        def features(
            levels: Tensor, sigmas: Tensor, noise: torch.Generator
        ) -> tuple[Tensor, Tensor]:
            pictures = levels.float() / 255
            estimate = module(add_gaussian(pictures, sigmas, noise), sigmas)
            return self._pipeline.encode(255 * pictures), self._pipeline.encode(255 * estimate)

        return mean_cosines(self._sigmas, self._validation, features)
