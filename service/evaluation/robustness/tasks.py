"""What the language makes of a shown map: a class among several, a caption, yes or no."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from service.evaluation.quiz import plain
from service.models.answerer.answerer import Answerer
from service.models.answerer.decoding import Decoder
from service.models.answerer.prompt import Prompt
from service.pictures.meanings import KINDS
from service.types import Generation, Message

_KIND = "What kind of thing is this?"
_MOST_TOKENS = 8
YES_NO = ("yes", "no")


@dataclass(frozen=True, slots=True)
class Answers:
    """Of one shown map.

    Attributes:
        label: the likeliest class.
        caption: an answer in its own words, articles and case left out.
        is_own, is_target: whether it says yes to its own kind, and to the target's.
    """

    label: str
    caption: str
    is_own: bool
    is_target: bool


class Tasks:
    """Asks one language the same of every map.

    Args:
        answerer: the language.
        classes: that a label is one of.
    """

    def __init__(self, answerer: Answerer, classes: Sequence[str]) -> None:
        self._answerer, self._classes = answerer, tuple(classes)
        self._decoder: Decoder = answerer.decoder()

    def ask(self, tokens: Tensor, own: str, target: str) -> Answers:
        """All tasks about one map [T, D]."""
        return Answers(
            label=self._classes[self._choice(_KIND, tokens, self._classes)],
            caption=self._caption(tokens),
            is_own=self._choice(f"Is this {KINDS[own]}?", tokens, YES_NO) == 0,
            is_target=self._choice(f"Is this {KINDS[target]}?", tokens, YES_NO) == 0,
        )

    def label_question(self) -> tuple[Prompt, tuple[tuple[int, ...], ...]]:
        """The prompt of the class, and the tokens of each choice, for a poll."""
        return self._prompt(_KIND), self._tokens(self._classes)

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
