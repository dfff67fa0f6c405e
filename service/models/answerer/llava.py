"""LLaVA-1.5 (Liu et al. 2023, arXiv:2310.03744) and LLaVA-NeXT."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from service.errors import ConfigurationError
from service.models.answerer.family import Family
from service.models.processors import at_size, load_processor
from service.types import Preprocessing


class Llava(Family):
    """One view, its patches projected."""

    def eyes(self) -> Sequence[nn.Module]:
        """Vision tower and projector."""
        return [self.model.model.vision_tower, self.model.model.multi_modal_projector]

    def tokens(self, pixels: Tensor) -> Tensor:
        """Projected patches of the chosen layers, [n, T, D]."""
        found: Tensor = torch.stack(
            list(self.model.model.get_image_features(pixel_values=pixels).pooler_output)
        )
        return found


class LlavaNext(Family):
    """The picture in tiles beside a small view of the whole.

    x is a square of the largest square resolution that the model knows. The small view and the
    tiles are made of x inside the smoothed function, so one certificate speaks of all of them.
    """

    def eyes(self) -> Sequence[nn.Module]:
        """Vision tower and projector; the line break between rows of patches is no module."""
        return [self.model.model.vision_tower, self.model.model.multi_modal_projector]

    def tokens(self, pixels: Tensor) -> Tensor:
        """Small view, then the tiles joined row by row, [n, T, D]."""
        height, width = pixels.shape[2:]
        found: Tensor = torch.stack(
            list(
                self.model.model.get_image_features(
                    pixel_values=self.tiles(pixels),
                    image_sizes=[(height, width)] * len(pixels),
                ).pooler_output
            )
        )
        return found

    def tiles(self, pixels: Tensor) -> Tensor:
        """[n, 3, H, W] -> small view and tiles, [n, 1 + tiles, 3, h, w]."""
        side = self.model.config.vision_config.image_size
        small = functional.interpolate(pixels, (side, side), mode="bicubic", antialias=True)
        tiles = pixels.unfold(2, side, side).unfold(3, side, side)  # [n, 3, rows, columns, h, w]
        tiles = tiles.permute(0, 2, 3, 1, 4, 5).flatten(1, 2)
        return torch.cat([small[:, None], tiles], 1)

    @staticmethod
    def preprocessing(folder: Path, config: Any) -> Preprocessing:
        """The centre of the picture, at the largest square of the model's grid."""
        squares = [size[0] for size in config.image_grid_pinpoints if size[0] == size[1]]
        if not squares:
            raise ConfigurationError(f"{folder}: none of its resolutions is a square")
        side = max(squares)
        if side % config.vision_config.image_size:
            raise ConfigurationError(f"{folder}: tiles do not fit a square of {side} pixels")
        return at_size(load_processor(folder), str(folder), side, (side, side))
