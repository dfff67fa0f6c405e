"""Idefics3 (Laurençon et al. 2024, arXiv:2408.12637) and SmolVLM: one view, not split in tiles."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from service.models.answerer.family import Family
from service.models.processors import at_size, load_processor
from service.types import Preprocessing


class Idefics(Family):
    """As with `do_image_splitting=False`: patches of one view, shuffled together and projected."""

    def __init__(self, model: Any) -> None:
        super().__init__(model)
        self._eyes = [model.model.vision_model, model.model.connector]

    def eyes(self) -> Sequence[nn.Module]:
        """Vision model and connector."""
        return self._eyes

    def part_from_eyes(self) -> None:
        """The model brings what it is shown to the precision of its first weight, an eye's."""
        self.model.model.vision_model = nn.Identity()
        self.model.model.connector = nn.Identity()

    def tokens(self, pixels: Tensor) -> Tensor:
        """Connected patches, [n, T, D]."""
        vision, connector = self.eyes()
        patch = self.model.config.vision_config.patch_size
        n, _, height, width = pixels.shape
        whole = torch.ones(
            n, height // patch, width // patch, dtype=torch.bool, device=pixels.device
        )
        hidden = vision(pixel_values=pixels, patch_attention_mask=whole).last_hidden_state
        found: Tensor = connector(hidden)
        return found

    @staticmethod
    def preprocessing(folder: Path, config: Any) -> Preprocessing:
        """The whole picture at the vision model's own square, its shape not kept."""
        side = config.vision_config.image_size
        return at_size(load_processor(folder), str(folder), (side, side), None)

    def written(self, count: int) -> str:
        """The tokens of the one, global view between their marks."""
        mark = "<fake_token_around_image>"
        return f"{mark}<global-img>{self.placeholder * count}{mark}"
