"""Attacked pictures, made once and kept as files: whoever is attacked alike shares them."""

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from service.errors import ConfigurationError
from service.evaluation.attacks.budget import Budget
from service.evaluation.attacks.descent import attack
from service.evaluation.attacks.objectives import (
    CropMatching,
    Displacement,
    Matching,
    Objective,
    TokenMatching,
    average,
)
from service.evaluation.attacks.seen import Seen
from service.evaluation.robustness.config import AttackConfig, BudgetConfig
from service.evaluation.robustness.subjects import Subject

_REFERENCE_DRAWS = 32  # behind the features that an adaptive attack leaves or wants


@dataclass(frozen=True, slots=True)
class Crafter:
    """Makes attacked pictures for one attacker.

    Attributes:
        folder: of all of them; what is there is not made again.
        knower: what the attacker knows; names the files.
        seen: what that attacker differentiates; of several, losses are averaged.
        shape: (T, D) of the token map; None of a feature that is none.
        seed: of restarts and crops.
    """

    folder: Path
    knower: str
    seen: tuple[Seen, ...]
    shape: tuple[int, int] | None
    seed: int

    def craft(
        self, subject: Subject, config: AttackConfig, budget: BudgetConfig
    ) -> NDArray[np.uint8]:
        """The attacked picture, uint8 [3, H, W], from its file or made now.

        Raises:
            RuntimeError: it is outside its budget, so its success would prove nothing.
            ConfigurationError: what is there is of another picture, or outside its budget.
        """
        ball: Budget = budget.value()
        file = self.folder / f"{self.knower}-{config.name}-{budget.name}" / f"{subject.name}.png"
        if file.exists():
            with Image.open(file) as kept:
                found = np.asarray(kept.convert("RGB")).transpose(2, 0, 1).copy()
            if found.shape != subject.x.shape or not ball.holds(subject.x, found):
                raise ConfigurationError(
                    f"{file} is no attack of this picture within {budget.name}"
                )
            return found
        for seen in self.seen:  # whatever was made before, or by an earlier run
            seen.generator.manual_seed(self.seed)
        found = attack(subject.x, self._objective(subject, config), ball, config.effort, self.seed)
        if not ball.holds(subject.x, found):
            raise RuntimeError(f"{subject.name}: the attacked picture is outside {budget.name}")
        file.parent.mkdir(parents=True, exist_ok=True)
        part = file.with_suffix(f".{os.getpid()}.part")
        Image.fromarray(found.transpose(1, 2, 0)).save(part, "PNG")
        part.replace(file)
        return found

    def _objective(self, subject: Subject, config: AttackConfig) -> Objective:
        if config.goal == "crops":
            crops = torch.Generator().manual_seed(self.seed)
            target = torch.from_numpy(subject.target.astype(np.float32))
            return CropMatching(self.seen, target, crops)
        return average([self._of_one(seen, subject, config) for seen in self.seen])

    def _of_one(self, seen: Seen, subject: Subject, config: AttackConfig) -> Objective:
        if config.goal == "displacement":
            return Displacement(seen, _reference(seen, subject.x))
        target = _reference(seen, subject.target)
        if config.goal == "tokens":
            if self.shape is None:
                raise ConfigurationError(f"{config.key}: the model's feature is no token map")
            return TokenMatching(seen, self.shape, target)
        return Matching(seen, target)


@torch.no_grad()
def _reference(seen: Seen, x: NDArray[np.uint8]) -> torch.Tensor:
    """The unit feature [d] of a picture, as an attacker sees it on average."""
    levels = torch.from_numpy(x.astype(np.float32))[None]
    calls = -(-_REFERENCE_DRAWS // seen.draws) if seen.sigma else 1
    mean = torch.stack([seen(levels)[0] for _ in range(calls)]).mean(0)
    reference: torch.Tensor = mean / mean.norm()
    return reference
