"""PaliGemma (Beyer et al. 2024, arXiv:2407.07726): picture and prompt attend to each other."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers.modeling_outputs import BaseModelOutputWithPooling

from service.models.answerer.family import Family


class PaliGemma(Family):
    """Prompts are tasks, not chats: pictures, <bos>, one text, a line break."""

    first_position = 1

    def eyes(self) -> Sequence[nn.Module]:
        """Vision tower and projector."""
        return [self.model.model.vision_tower, self.model.model.multi_modal_projector]

    def tokens(self, pixels: Tensor) -> Tensor:
        """Projected patches, [n, T, D]."""
        found: Tensor = self.model.model.get_image_features(pixels).pooler_output
        return found

    def plain_prompt(self, text: str, pictures: int) -> str:
        """As its processor writes it."""
        return f"{self.placeholder * pictures}<bos>{text}\n"

    def shown(self, maps: Sequence[Tensor]) -> dict[str, BaseModelOutputWithPooling]:
        """Stacked, [pictures, T, D]."""
        return {"image": BaseModelOutputWithPooling(pooler_output=torch.stack(list(maps)))}

    def prefill_options(self, ids: Tensor) -> dict[str, Any]:
        """All of a prompt is prefix: none of it is masked from the rest."""
        return {"token_type_ids": torch.zeros_like(ids)}
