"""A poll: which of a few answers a language model chooses, for each of many things shown to it.

Asked in batches of one fixed shape, so that a choice depends on nothing that shares its batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from torch import Tensor

if TYPE_CHECKING:
    from service.models.answerer.decoding import Decoder
    from service.models.answerer.prompt import Prompt


# Reading prompts together pays up to here (docs/log.md); more would hold up those who speak.
_MOST_ROWS, _MOST_TOKENS = 4, 512


@dataclass(slots=True, eq=False)
class Poll:
    """One question with closed answers about many things, at least one.

    Attributes:
        prompt: the same every time.
        choices: tokens of each answer.
        shown: the maps [T, D] of the prompt's pictures, once for each choice to be made.
        future: number of the choice, for each of `shown`; cancelled, the poll is dropped.
        found: of those asked so far.
    """

    prompt: Prompt
    choices: Sequence[Sequence[int]]
    shown: Sequence[Sequence[Tensor]]
    future: Future[list[int]] = field(default_factory=Future)
    found: list[int] = field(default_factory=list)

    @property
    def rows(self) -> int:
        """Of each batch: what reads a few long prompts, or one, must not take the time of four."""
        if len(self.shown) == 1:
            return 1
        return max(1, min(_MOST_ROWS, _MOST_TOKENS // self.prompt.length))

    @property
    def complete(self) -> bool:
        """Everything was asked."""
        return len(self.found) == len(self.shown)

    def advance(self, decoder: Decoder) -> None:
        """Ask one batch more; the last is filled up with what it holds already."""
        first = len(self.found)
        count = min(self.rows, len(self.shown) - first)
        batch = [self.shown[first + i % count] for i in range(self.rows)]
        likelihoods = decoder.likelihoods(self.prompt, batch, self.choices)
        self.found += likelihoods[:count].argmax(1).tolist()
