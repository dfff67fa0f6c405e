"""Training the mapper: l_rb + lambda_3 l_stats + l_rel, behind the frozen encoder and purifier.

The paper's l_id, no change at sigma = 0, holds by construction here (`service.models.mapper`);
l_rel is ours.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from service.models.mapper import Mapper
from service.models.pipeline import Pipeline
from service.training.objectives import relations_loss, robustness_loss, statistics_loss
from service.training.task import add_gaussian, draw_sigmas, mean_cosines


@dataclass(frozen=True, slots=True)
class MapperWeights:
    """Of the losses: l_rb, l_stats (lambda_3) and l_rel; ours, the paper names none."""

    robustness: float = 1.0
    statistics: float = 1.0
    relations: float = 3.0


class MapperTask:
    """A mapper for one encoder, with or without a purifier in front of it.

    Args:
        mapper: to be trained.
        pipeline: with the purifier it will serve with, without a mapper.
        sigmas: levels to train for; a level that is named twice is drawn twice as often.
        validation: scenes for the score, uint8 [n, 3, H, W].
        weights: of the losses.
        about: of the run, for its identity: encoder, purifier, data, architecture.
    """

    def __init__(
        self,
        mapper: Mapper,
        pipeline: Pipeline,
        sigmas: tuple[float, ...],
        validation: Tensor,
        weights: MapperWeights,
        about: Mapping[str, Any],
    ) -> None:
        self.module: nn.Module = mapper
        self._pipeline = pipeline
        self._sigmas = sigmas
        self._validation = validation
        self._weights = weights
        self.identity = {**about, "sigmas": list(sigmas), "loss": asdict(weights)}

    def loss(self, module: nn.Module, levels: Tensor, noise: torch.Generator) -> Tensor:
        """Of a batch of scenes, each with its own sigma."""
        sigmas = draw_sigmas(torch.tensor(self._sigmas, device=levels.device), len(levels), noise)
        clean, noisy = self._features(levels, sigmas, noise)
        features, clean = module(noisy, sigmas).flatten(1), clean.flatten(1)
        w = self._weights
        return (
            w.robustness * robustness_loss(features, clean)
            + w.statistics * statistics_loss(features, clean)
            + w.relations * relations_loss(features, clean)
        )

    @torch.no_grad()
    def score(self, module: nn.Module) -> dict[str, float]:
        """Mean cosine of the mapped features and f(x), at each level and over all."""

        def features(
            levels: Tensor, sigmas: Tensor, noise: torch.Generator
        ) -> tuple[Tensor, Tensor]:
            clean, noisy = self._features(levels, sigmas, noise)
            return clean, module(noisy, sigmas)

        return mean_cosines(self._sigmas, self._validation, features)

    @torch.no_grad()
    def _features(
        self, levels: Tensor, sigmas: Tensor, noise: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """Of the scenes as they are, and of the purified noisy ones."""
        pictures = levels.float() / 255
        purified = self._pipeline.purify(255 * add_gaussian(pictures, sigmas, noise), sigmas)
        return self._pipeline.encode(255 * pictures), self._pipeline.encode(purified)
