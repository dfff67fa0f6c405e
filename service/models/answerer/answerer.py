"""What a loaded model needs to answer about what it saw: prompts, tokens, and its language."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from service.models.answerer.converted import converted_language
from service.models.answerer.decoding import Decoder
from service.models.answerer.embedded import assembled
from service.models.answerer.family import Family, VisualTokens
from service.models.answerer.load import load_family, load_tokenizer
from service.models.answerer.prompt import Prompter
from service.models.answerer.trained import read_trained
from service.models.encoder import Encoder
from service.models.packages import LanguageSource


@dataclass(frozen=True, slots=True)
class Answerer:
    """The language side of a model whose feature is a token map.

    Attributes:
        shape: (T, D) of the map.
        ends: tokens that end an answer.
        centre: [T, D] float32 from where features are directions; None: from zero.
    """

    family: Family
    tokenizer: Any
    prompter: Prompter
    shape: tuple[int, int]
    ends: tuple[int, ...]
    centre: Tensor | None = None

    def decoder(self) -> Decoder:
        """A new one, with no answers in it; for one thread."""
        return Decoder(self.family, self.ends)

    def token_map(self, embedding: NDArray[np.float32], norm: float) -> Tensor:
        """What the language is shown: from the centre, the unit feature at the mean norm, [T, D].

        Args:
            embedding: unit norm, [T * D].
            norm: mean norm of the features whose mean it is.
        """
        apart = torch.from_numpy(embedding * np.float32(norm)).view(self.shape)
        return apart if self.centre is None else self.centre + apart

    @property
    def end(self) -> int:
        """The token that an answer which is given ends with."""
        own = self.tokenizer.eos_token_id
        return int(self.ends[0] if own is None else own)

    def text(self, ids: list[int]) -> str:
        """What tokens say."""
        told: str = self.tokenizer.decode(ids, skip_special_tokens=True)
        return told

    def tokens(self, text: str) -> list[int]:
        """Of an answer, its end left out."""
        found: list[int] = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return found


def load_answerer(folder: Path, size: tuple[int, int]) -> tuple[VisualTokens, Answerer]:
    """Eyes and language of a Hugging Face folder.

    Raises:
        ConfigurationError: no such model, or parts of it are missing.
    """
    return _joined(load_family(folder), load_tokenizer(folder), size)


def embedded_answerer(
    encoder: Encoder, source: LanguageSource, projector: Path, size: tuple[int, int], cache: Path
) -> tuple[VisualTokens, Answerer]:
    """Eyes and language of a package: its encoder, its projector, and a chat model.

    Raises:
        ConfigurationError: a part is missing, damaged, or was made for something else.
    """
    language, trained = converted_language(source, cache), read_trained(projector)
    family = assembled(encoder, trained, language)
    return _joined(family, load_tokenizer(language), size, trained.centre)


def _joined(
    family: Family, tokenizer: Any, size: tuple[int, int], centre: Tensor | None = None
) -> tuple[VisualTokens, Answerer]:
    eyes = VisualTokens(family, size, centre)
    family.part_from_eyes()
    text = family.model.config.get_text_config()
    prompter = Prompter(family, tokenizer, eyes.shape[0], int(text.max_position_embeddings))
    told = family.model.generation_config.eos_token_id
    ends = {tokenizer.eos_token_id, *(told if isinstance(told, list) else [told])} - {None}
    return eyes, Answerer(family, tokenizer, prompter, eyes.shape, tuple(sorted(ends)), centre)
