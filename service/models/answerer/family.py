"""The seam between a model's eyes and its language, one small adapter a family.

    pixels -> `Family.tokens` -> token map [T, D] -> `Family.shown` -> the language model

Everything before the seam is smoothed and certified; what comes after it is the model's own code
and weights, unchanged. Nothing here draws noise, decodes, or knows of requests.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from transformers.modeling_outputs import BaseModelOutputWithPooling

from service.models.encoder import Encoder
from service.models.processors import load_preprocessing
from service.types import Preprocessing


class Family(ABC):
    """One loaded image-text-to-text model.

    Args:
        model: of transformers, with its language head.

    Attributes:
        placeholder: what stands for a picture in the model's chat template.
        first_position: of the first token, where the model counts its positions from.
    """

    placeholder: ClassVar[str] = "<image>"
    first_position: ClassVar[int] = 0

    def __init__(self, model: Any) -> None:
        self.model = model

    @abstractmethod
    def eyes(self) -> Sequence[nn.Module]:
        """The modules that `tokens` runs through."""

    @abstractmethod
    def tokens(self, pixels: Tensor) -> Tensor:
        """Normalised pixels [n, 3, H, W] -> the token map the language is shown, [n, T, D]."""

    @staticmethod
    def preprocessing(folder: Path, config: Any) -> Preprocessing:
        """How a picture becomes x; one fixed size, whatever the model could take.

        Raises:
            ConfigurationError: no usable image processor.
        """
        return load_preprocessing(folder)

    def part_from_eyes(self) -> None:  # noqa: B027 - most need nothing
        """From here on the eyes may run in another precision than the language.

        Nothing to do where the model's code does not take its eyes' precision for its own.
        """

    @property
    def image_token(self) -> int:
        """Its number in the vocabulary."""
        return int(self.model.config.image_token_id)

    def written(self, count: int) -> str:
        """A picture of so many tokens, as the prompt has it in place of the placeholder."""
        return self.placeholder * count

    def plain_prompt(self, text: str, pictures: int) -> str | None:
        """A prompt of one user's text, for models without a chat template; None: they need one."""
        return None

    def shown(self, maps: Sequence[Tensor]) -> dict[str, BaseModelOutputWithPooling]:
        """Token maps [T, D], one a picture, as the model's `mm_encoder_outputs`."""
        listed: Any = tuple(maps)  # as these families return them, whatever the annotation says
        return {"image": BaseModelOutputWithPooling(pooler_output=listed)}

    def prefill_options(self, ids: Tensor) -> dict[str, Any]:
        """What else the model wants with prompts [B, L]."""
        return {}


class VisualTokens(Encoder):
    """The eyes of a family as an encoder: its feature is the whole token map, flattened.

    Args:
        family: whose eyes.
        size: (H, W) of pictures.
        centre: [T, D], subtracted from every map: what all pictures share is no part of a
            direction (docs/answers.md, "The centre"); None for none.
    """

    shape: tuple[int, int]

    def __init__(self, family: Family, size: tuple[int, int], centre: Tensor | None = None) -> None:
        super().__init__()
        self.eyes = nn.ModuleList(family.eyes())
        self._tokens = family.tokens  # not a submodule: the language stays where it is
        weight = next(self.eyes.parameters())
        with torch.no_grad():
            seen = family.tokens(torch.zeros(1, 3, *size, dtype=weight.dtype, device=weight.device))
        tokens, width = (int(side) for side in seen.shape[1:])
        self.shape, self.dimensions = (tokens, width), tokens * width
        # No buffer: it stays in float32, whatever the eyes run in.
        self._centre = centre

    def pooled(self, pixels: Tensor) -> Tensor:
        """The token map from its centre as one vector, [n, T * D]."""
        tokens = self.tokens(pixels)
        if self._centre is None:
            return tokens.flatten(1)
        if self._centre.device != tokens.device:
            self._centre = self._centre.to(tokens.device)
        return (tokens.float() - self._centre).flatten(1)

    def tokens(self, pixels: Tensor) -> Tensor:
        """The token map, [n, T, D]."""
        return self._tokens(pixels)
