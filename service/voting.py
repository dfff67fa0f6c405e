"""Closed questions: the choices of a request, the draws that vote, and what their votes prove.

The answer is the choice the language gives to what it is shown; then each of further draws is shown
alone, and votes. The proof is in docs/answers.md, "Closed answers".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, overload

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from service.answering import apart
from service.certificate.statement import vote_statement
from service.certificate.votes import count_votes, fewest_votes
from service.config import Settings
from service.errors import invalid, shown
from service.job import JobResult
from service.types import (
    AnswerRequest,
    Choice,
    EmbedRequest,
    SamplingPlan,
    Space,
    Stage,
    Vote,
)

if TYPE_CHECKING:
    from service.models.answerer.answerer import Answerer
    from service.models.answerer.prompt import Prompt

_MAX_CHARACTERS = 200
_OPEN = ("max_tokens", "temperature", "top_p", "generation_seed")


@dataclass(frozen=True, slots=True)
class Ballot:
    """A closed question, checked.

    Attributes:
        texts: the choices.
        tokens: of each, its end among them.
        votes: draws that vote.
        alpha: of what they prove.
    """

    texts: tuple[str, ...]
    tokens: tuple[tuple[int, ...], ...]
    votes: int
    alpha: float


def ballot(
    request: AnswerRequest,
    answerer: Answerer,
    prompt: Prompt,
    plan: SamplingPlan,
    settings: Settings,
) -> Ballot:
    """The choices and the number of votes of a request.

    Raises:
        ServiceError: invalid, naming the field at fault; among others too few votes to prove
            anything at the request's confidence.
    """
    _refuse_open(request)
    texts, most = request.choices, settings.max_choices
    if not 2 <= len(texts) <= most:
        raise invalid(f"{len(texts)} choices; allowed are 2 to {most}", "choices")
    tokens = []
    for i, text in enumerate(texts):
        where = f"choices[{i}]"
        if not text.strip():
            raise invalid("a choice must not be empty", where)
        if len(text) > _MAX_CHARACTERS:
            raise invalid(f"{len(text)} characters; allowed are {_MAX_CHARACTERS}", where)
        if text in texts[:i]:
            raise invalid(f"{shown(text)} is given twice", where)
        answerer.prompter.refuse_marks(text, where)
        tokens.append((*answerer.tokens(text), answerer.end))
        if prompt.length + len(tokens[-1]) > answerer.prompter.context:
            raise invalid(
                f"prompt and choice have {prompt.length + len(tokens[-1])} tokens; the model takes"
                f" {answerer.prompter.context}",
                where,
            )
    return Ballot(texts, tuple(tokens), _votes(request, plan, settings), 1 - plan.confidence)


def _refuse_open(request: AnswerRequest) -> None:
    """Nothing that only an open answer has may be asked of a closed one."""
    given = [name for name in _OPEN if getattr(request, name) is not None]
    given += ["stop"] if request.stop else []
    given += ["stability_draws"] if request.stability_draws else []
    if given:
        raise invalid("with choices the answer is one of them: no token is drawn", given[0])


def _votes(request: AnswerRequest, plan: SamplingPlan, settings: Settings) -> int:
    fewest = fewest_votes(1 - plan.confidence)
    most = min(settings.max_votes, settings.max_selection_samples)
    votes = min(settings.default_votes, most) if request.votes is None else request.votes
    if not fewest <= votes <= most:
        raise invalid(
            f"votes is {votes}; allowed are {fewest} to {most} (fewer than {fewest} can prove"
            f" nothing at confidence {plan.confidence!r})",
            "votes",
        )
    return votes


def voters(wanted: EmbedRequest, made: Ballot) -> EmbedRequest:
    """The same pictures again, each with so many draws of its own as there are votes."""
    return replace(apart(wanted), certify=False, target="default", selection_samples=made.votes)


def memory(made: Ballot, pictures: int, dimensions: int) -> int:
    """Bytes of the draws that wait to vote."""
    return 4 * made.votes * pictures * (dimensions + 1)


class Draws:
    """A watch that keeps every selected feature of a picture."""

    def __init__(self) -> None:
        self.features: list[NDArray[np.float32]] = []

    def add(
        self, stage: Stage, features: NDArray[np.float32], embedding: NDArray[np.float32] | None
    ) -> None:
        """Take the next unit features [m, d] of a stage."""
        if stage is Stage.SELECT:
            self.features += list(features.copy())  # they may be rows of a batch of many jobs


class Views(Sequence[tuple[Tensor, ...]]):
    """What the language is shown of each draw, made when it is looked at.

    Args:
        answerer: whose language looks.
        results: of all pictures, in order, each with its `Draws`.
    """

    def __init__(self, answerer: Answerer, results: Sequence[JobResult]) -> None:
        self._answerer = answerer
        self._pictures = [
            (one.watch.features, one.norms) for one in results if isinstance(one.watch, Draws)
        ]

    def __len__(self) -> int:
        return min(len(norms) for _, norms in self._pictures)

    @overload
    def __getitem__(self, draw: int) -> tuple[Tensor, ...]: ...
    @overload
    def __getitem__(self, draw: slice) -> list[tuple[Tensor, ...]]: ...
    def __getitem__(self, draw: int | slice) -> tuple[Tensor, ...] | list[tuple[Tensor, ...]]:
        """The maps [T, D] of the pictures in one draw."""
        if isinstance(draw, slice):
            return [self[i] for i in range(*draw.indices(len(self)))]
        return tuple(
            self._answerer.token_map(features[draw], norms[draw])
            for features, norms in self._pictures
        )


def vote(
    made: Ballot,
    answer: int,
    found: Sequence[int],
    plan: SamplingPlan,
    pictures: int,
    space: Space,
    client_seed: bool,
) -> Vote:
    """What the votes prove of an answer.

    Args:
        made: what was asked.
        answer: the choice whose answer it is, fixed without looking at any vote.
        found: the choice of each draw.
        plan: of the sampling: noise level and confidence.
        pictures: that the draws are of.
        space: of each.
        client_seed: whether the noise's seed came with the request.
    """
    agreeing = sum(one == answer for one in found)
    proved = count_votes(agreeing, len(found), plan.noise.sigma, made.alpha)
    return Vote(
        choices=tuple(
            Choice(text, sum(one == i for one in found)) for i, text in enumerate(made.texts)
        ),
        draws=len(found),
        agreeing=agreeing,
        lower=proved.lower,
        certified_radius=proved.radius,
        abstained=proved.radius <= 0,
        confidence=plan.confidence,
        statement=vote_statement(
            made.texts[answer], proved.radius, pictures, plan.confidence, space, client_seed
        ),
    )
