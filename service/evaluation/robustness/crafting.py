"""Attacked pictures, made once and kept as files: whoever is attacked alike shares them."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from service.evaluation.attacks.budget import Budget
from service.evaluation.attacks.descent import attack
from service.evaluation.attacks.objectives import (
    CropMatching,
    Displacement,
    Matching,
    Objective,
    TokenMatching,
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
        knower: "encoder", or the defence that the attacker knows; names the files.
        seen: what that attacker differentiates.
        shape: (T, D) of the token map.
        seed: of restarts and crops.
    """

    folder: Path
    knower: str
    seen: Seen
    shape: tuple[int, int]
    seed: int

    def craft(
        self, subject: Subject, config: AttackConfig, budget: BudgetConfig
    ) -> NDArray[np.uint8]:
        """The attacked picture, uint8 [3, H, W], from its file or made now.

        Raises:
            RuntimeError: it is outside its budget, so its success would prove nothing.
        """
        file = self.folder / f"{self.knower}-{config.name}-{budget.name}" / f"{subject.name}.png"
        if file.exists():
            return np.asarray(Image.open(file)).transpose(2, 0, 1).copy()
        ball: Budget = budget.value()
        self.seen.generator.manual_seed(self.seed)  # whatever was made before, or by an earlier run
        found = attack(subject.x, self._objective(subject, config), ball, config.effort, self.seed)
        if not ball.holds(subject.x, found):
            raise RuntimeError(f"{subject.name}: the attacked picture is outside {budget.name}")
        file.parent.mkdir(parents=True, exist_ok=True)
        part = file.with_suffix(".part")
        Image.fromarray(found.transpose(1, 2, 0)).save(part, "PNG")
        part.replace(file)
        return found

    def _objective(self, subject: Subject, config: AttackConfig) -> Objective:
        match config.goal:
            case "displacement":
                return Displacement(self.seen, self._reference(subject.x))
            case "matching":
                return Matching(self.seen, self._reference(subject.target))
            case "tokens":
                return TokenMatching(self.seen, self.shape, self._reference(subject.target))
            case "crops":
                crops = torch.Generator().manual_seed(self.seed)
                target = torch.from_numpy(subject.target.astype(np.float32))
                return CropMatching([self.seen], target, crops)

    @torch.no_grad()
    def _reference(self, x: NDArray[np.uint8]) -> torch.Tensor:
        """The unit feature [d] of a picture, as this attacker sees it on average."""
        levels = torch.from_numpy(x.astype(np.float32))[None]
        calls = -(-_REFERENCE_DRAWS // self.seen.draws) if self.seen.sigma else 1
        mean = torch.stack([self.seen(levels)[0] for _ in range(calls)]).mean(0)
        reference: torch.Tensor = mean / mean.norm()
        return reference
