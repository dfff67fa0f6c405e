"""What is made of a feature: a class among several, a caption, yes or no.

A model with a language is asked in words. One with a text tower alone has the class only, that of
the nearest text (zero-shot, Radford et al. 2021, arXiv:2103.00020).
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from service.errors import ConfigurationError
from service.evaluation.quiz import plain
from service.evaluation.showing import Feature
from service.models.answerer.answerer import Answerer
from service.models.answerer.decoding import Decoder
from service.models.answerer.prompt import Prompt
from service.models.loaded import LoadedModel
from service.models.text import TextTower
from service.pictures.meanings import KINDS
from service.polling import Poll
from service.types import Generation, Message

_KIND = "What kind of thing is this?"
_TEMPLATE = "a photo of {}"
_MOST_TOKENS = 8
YES_NO = ("yes", "no")


@dataclass(frozen=True, slots=True)
class Answers:
    """Of one feature.

    Attributes:
        label: the likeliest class.
        caption: an answer in its own words, articles and case left out; None without a language.
        is_own, is_target: whether it says yes to its own kind, and to the target's.
    """

    label: str
    caption: str | None = None
    is_own: bool | None = None
    is_target: bool | None = None


class Tasks(ABC):
    """Asks the same of every feature."""

    @abstractmethod
    def ask(self, feature: Feature, own: str, target: str) -> Answers:
        """All tasks about one picture, of which kind it is, and of which an attack wants it."""

    @abstractmethod
    def label(self, feature: Feature) -> str:
        """The likeliest class of one."""

    @abstractmethod
    def votes(self, features: NDArray[np.float32], norms: NDArray[np.float32]) -> list[str]:
        """The likeliest class of each of several draws, [n, d], that had these norms."""


def tasks_of(model: LoadedModel, classes: Sequence[str]) -> Tasks:
    """What this model can be asked.

    Raises:
        ConfigurationError: neither a language nor a text tower.
    """
    if model.answerer is not None:
        return Spoken(model.answerer, classes)
    if model.text is not None:
        return Nearest(model.text, classes)
    raise ConfigurationError(f"{model.name} has no language to answer in, and no text tower")


class Nearest(Tasks):
    """The class whose text has the greatest cosine with the feature."""

    def __init__(self, text: TextTower, classes: Sequence[str]) -> None:
        self._classes = tuple(classes)
        written = [_TEMPLATE.format(KINDS[one]) for one in classes]
        self._directions = text.encode(written, ["classes"] * len(written))

    def ask(self, feature: Feature, own: str, target: str) -> Answers:
        """The class alone."""
        return Answers(self.label(feature))

    def label(self, feature: Feature) -> str:
        """The nearest one."""
        return self._classes[int((self._directions @ feature.embedding).argmax())]

    def votes(self, features: NDArray[np.float32], norms: NDArray[np.float32]) -> list[str]:
        """The nearest of each."""
        return [self._classes[i] for i in (features @ self._directions.T).argmax(1)]


class Spoken(Tasks):
    """What one language says.

    Args:
        answerer: the language.
        classes: that a label is one of.
    """

    def __init__(self, answerer: Answerer, classes: Sequence[str]) -> None:
        self._answerer, self._classes = answerer, tuple(classes)
        self._decoder: Decoder = answerer.decoder()

    def ask(self, feature: Feature, own: str, target: str) -> Answers:
        """All of them."""
        tokens = self._map(feature)
        return Answers(
            label=self._classes[self._choice(_KIND, tokens, self._classes)],
            caption=self._caption(tokens),
            is_own=self._choice(f"Is this {KINDS[own]}?", tokens, YES_NO) == 0,
            is_target=self._choice(f"Is this {KINDS[target]}?", tokens, YES_NO) == 0,
        )

    def label(self, feature: Feature) -> str:
        """The likeliest answer of all classes."""
        return self._classes[self._choice(_KIND, self._map(feature), self._classes)]

    def votes(self, features: NDArray[np.float32], norms: NDArray[np.float32]) -> list[str]:
        """As the service polls them."""
        maps = [
            (self._map(Feature(feature, float(norm))),)
            for feature, norm in zip(features, norms, strict=True)
        ]
        poll = Poll(self._prompt(_KIND), self._tokens(self._classes), maps)
        while not poll.complete:
            poll.advance(self._decoder)
        return [self._classes[found] for found in poll.found]

    def _map(self, feature: Feature) -> Tensor:
        return self._answerer.token_map(feature.embedding, feature.norm)

    def _choice(self, question: str, tokens: Tensor, choices: Sequence[str]) -> int:
        found = self._decoder.likelihoods(self._prompt(question), [[tokens]], self._tokens(choices))
        return int(found[0].argmax())

    def _caption(self, tokens: Tensor) -> str:
        row = self._decoder.begin(self._prompt(_KIND), [tokens], Generation(_MOST_TOKENS))
        while row.finish is None:
            self._decoder.step()
        return plain(self._answerer.text(row.ids))

    def _prompt(self, question: str) -> Prompt:
        return self._answerer.prompter.write((Message("user", (None, question)),), "prompt")

    def _tokens(self, choices: Sequence[str]) -> tuple[tuple[int, ...], ...]:
        answerer = self._answerer
        return tuple((*answerer.tokens(choice), answerer.end) for choice in choices)
