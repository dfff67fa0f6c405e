"""Adversarial fine-tuning of an encoder: FARE and TeCoA, the published baselines.

FARE (Schlarmann et al. 2024, arXiv:2402.12336, eq. 3): attacked pictures keep the features that the
original encoder gives the clean ones; no labels. TeCoA (Mao et al. 2023, arXiv:2212.07016, eq. 4):
attacked pictures keep their class among text directions. Here the directions are the normalised
rows of the encoder's own classifier at its own temperature, and the class is the original encoder's
first choice, for these pictures have no labels.

The inner maximisation is l-infinity PGD on the same loss. Batch norms stand still: those of the
embedded encoder are folded into its convolutions, others are in evaluation mode.
"""

import copy
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from service.errors import ConfigurationError
from service.models.encoder import Encoder
from service.models.gradients import quicken
from service.models.pipeline import Pipeline

Goal = Literal["fare", "tecoa"]
_BATCH = 16


@dataclass(frozen=True, slots=True)
class Adversary:
    """The attack inside of training.

    Attributes:
        epsilon: l-infinity, in levels of 255.
        steps: of PGD, from a random start.
    """

    epsilon: float = 4.0
    steps: int = 3

    @property
    def step(self) -> float:
        """Length of one, in levels: half again as much as reaches the border."""
        return 1.5 * self.epsilon / self.steps


class HardeningTask:
    """An encoder that is trained to keep what it says under attack.

    Args:
        goal: which objective.
        pipeline: of the original encoder, frozen.
        validation: scenes for the score, uint8 [n, 3, H, W].
        adversary: inside of training, and of the score.
        about: of the run, for its identity.

    Raises:
        ConfigurationError: TeCoA for an encoder without a classifier.
    """

    def __init__(
        self,
        goal: Goal,
        pipeline: Pipeline,
        validation: Tensor,
        adversary: Adversary,
        about: Mapping[str, Any],
    ) -> None:
        self._goal, self._pipeline, self._validation = goal, pipeline, validation
        self._adversary = adversary
        self._original = Tokens(pipeline.encoder)
        self.module: nn.Module = copy.deepcopy(self._original).requires_grad_(True)
        # The adversary's own copy: frozen weights have a faster way back to the pixels.
        self._twin = copy.deepcopy(self.module).requires_grad_(False).eval()
        quicken(self._twin)
        rows = pipeline.encoder.class_rows()
        if goal == "tecoa" and rows is None:
            raise ConfigurationError("TeCoA wants an encoder with a classifier; this one has none")
        self._rows = None if rows is None else functional.normalize(rows.float())
        if self._rows is not None and rows is not None and goal == "tecoa":
            self._temperature = self._own_temperature(rows.float())
        self.identity = {**about, "goal": goal, "adversary": asdict(adversary)}

    def loss(self, module: nn.Module, levels: Tensor, noise: torch.Generator) -> Tensor:
        """Mean loss of a batch of scenes, attacked."""
        wanted = self._wanted(levels)
        self._twin.load_state_dict(self.module.state_dict())
        attacked = self._attacked(self._twin, levels, wanted, noise)
        module.eval()  # batch norms stand still
        return self._losses(module, attacked, wanted).mean()

    @torch.no_grad()
    def score(self, module: nn.Module) -> dict[str, float]:
        """On validation scenes, clean and under attack; the score is the mean of both.

        Cosine with the original's features; of TeCoA, how many keep their class, and their score.
        """
        noise = torch.Generator(self._validation.device).manual_seed(0)
        self._twin.load_state_dict(module.state_dict())
        cosines: list[list[Tensor]] = [[], []]
        kept: list[list[Tensor]] = [[], []]
        for levels in torch.split(self._validation, _BATCH):
            wanted = self._wanted(levels)
            with torch.enable_grad():
                moved = self._attacked(self._twin, levels, wanted, noise)
            original = self._features(self._original, levels.float()).flatten(1)
            for i, pictures in enumerate((levels.float(), moved)):
                features = self._features(module, pictures)
                cosines[i].append(functional.cosine_similarity(features.flatten(1), original))
                if self._goal == "tecoa":
                    kept[i].append((self._logits(features).argmax(1) == wanted).float())
        found = {"cos": [float(torch.cat(one).mean()) for one in cosines]}
        if self._goal == "tecoa":
            found["class"] = [float(torch.cat(one).mean()) for one in kept]
        where = "clean", f"{self._adversary.epsilon:g}/255"
        told = {
            f"{what}@{place}": mean
            for what, means in found.items()
            for place, mean in zip(where, means, strict=True)
        }
        return {"score": sum(list(found.values())[-1]) / 2, **told}

    @torch.no_grad()
    def _wanted(self, levels: Tensor) -> Tensor:
        """What the original says of clean pictures: features [n, T, D], or classes [n]."""
        features = self._features(self._original, levels.float())
        if self._goal == "fare":
            return features
        return self._logits(features).argmax(1)

    def _attacked(
        self, module: nn.Module, levels: Tensor, wanted: Tensor, noise: torch.Generator
    ) -> Tensor:
        """Pixel levels [n, 3, H, W] within the adversary's ball, where the loss is large."""
        x, reach = levels.float(), self._adversary.epsilon
        start = torch.rand(x.shape, generator=noise, device=x.device) * 2 - 1
        change = (x + reach * start).clamp(0, 255) - x
        for _ in range(self._adversary.steps):
            candidate = (x + change).requires_grad_()
            losses = self._losses(module, candidate, wanted)
            (gradient,) = torch.autograd.grad(losses.sum(), candidate)
            moved = change + self._adversary.step * gradient.sign()
            change = (x + moved.clamp(-reach, reach)).clamp(0, 255) - x
        return x + change

    def _losses(self, module: nn.Module, levels: Tensor, wanted: Tensor) -> Tensor:
        """Of each picture, [n]."""
        features = self._features(module, levels)
        if self._goal == "fare":
            return (features - wanted).square().sum(2).mean(1)
        return functional.cross_entropy(self._logits(features), wanted, reduction="none")

    def _logits(self, features: Tensor) -> Tensor:
        """Cosines with the class directions over the temperature, [n, C]."""
        assert self._rows is not None  # noqa: S101 - by the constructor
        pooled = functional.normalize(features.mean(1))
        return pooled @ self._rows.T / self._temperature

    @torch.no_grad()
    def _own_temperature(self, rows: Tensor) -> float:
        """At which cosines are the classifier's own logits, on average over validation scenes.

        CLIP has one, 0.01, because it was trained at it; so were these rows at theirs.
        """
        levels = self._validation[:_BATCH].float()
        norms = self._features(self._original, levels).mean(1).norm(dim=1)
        return float(1 / (norms.mean() * rows.norm(dim=1).mean()))

    def _features(self, module: Any, levels: Tensor) -> Tensor:
        """The token map that a language would be shown, float32 [n, T, D]; its mean is pooled."""
        features: Tensor = module(self._pipeline.normalised(levels)).float()
        return features


class Tokens(nn.Module):
    """An encoder whose forward pass is its token map, for what wraps modules."""

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, pixels: Tensor) -> Tensor:
        """Normalised pixels [n, 3, H, W] -> [n, T, D]."""
        return self.encoder.tokens(pixels)
