"""Answers about pictures: sample, let the language speak of the means, certify beside it.

    pictures -> sampled -> selection means -> shown to the language -> text, or a choice
                       +-> certificates             further draws -> stability, or votes

On the core's event loop; `service.speaking` decodes on threads of its own.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from torch import Tensor

from service import admission, answering, tracing, voting
from service.answering import Shown
from service.config import Settings
from service.embedding import Embedder
from service.errors import ServiceError, unavailable
from service.following import Listener
from service.metrics import Metrics
from service.models.loaded import LoadedModel
from service.polling import Poll
from service.reservations import Reservations
from service.serving import Serving
from service.speaking import Saying, Speaker, Spoken
from service.types import (
    Accepted,
    AnswerRequest,
    AnswerResult,
    EmbedRequest,
    EmbedResult,
    Event,
    Generation,
    Said,
    SamplingPlan,
    Stability,
    Timing,
    Vote,
)
from service.voting import Ballot, Draws, Views
from service.waiting import both, soon, within

if TYPE_CHECKING:
    from service.models.answerer.answerer import Answerer
    from service.models.answerer.prompt import Prompt

T = TypeVar("T")
Told = Callable[[Said | Event], None]


class Asker:
    """Answers of one core.

    Args:
        settings: frozen.
        metrics: of the core.
        reservations: of the core.
        embedder: of the core.
    """

    def __init__(
        self,
        settings: Settings,
        metrics: Metrics,
        reservations: Reservations,
        embedder: Embedder,
    ) -> None:
        self._settings, self._metrics = settings, metrics
        self._reservations, self._embedder = reservations, embedder

    async def answer(
        self, serving: Serving, request: AnswerRequest, told: Told | None = None
    ) -> AnswerResult:
        """What a model with a language says about pictures, and what is certified of its features.

        Args:
            serving: leased for as long as this takes.
            request: from a transport.
            told: called on the event loop when the request is accepted, and with each new piece of
                the answer's text.

        Raises:
            ServiceError: any kind; nothing of the request keeps running afterwards.
        """
        arrived = time.monotonic()
        loaded = list(serving.models.values())
        wanted = answering.sampling(request, loaded, self._settings)
        model = self._embedder.model_of(serving, wanted)
        answerer = answering.language_of(model, loaded)
        plan = self._embedder.plan(wanted, model)
        limit = admission.timeout_s(wanted, self._settings)
        answering.check_text(request, self._settings)
        prompt = await asyncio.to_thread(answerer.prompter.write, request.messages, "messages")
        answering.check_prompt(prompt, answerer, self._settings)
        asked = _Asked(serving, request, wanted, model, answerer, prompt, plan, told)
        if request.choices:
            ballot = voting.ballot(request, answerer, prompt, plan, self._settings)
            self._check_budget(wanted, voting.voters(wanted, ballot), model)
            held = voting.memory(ballot, prompt.pictures, model.pipeline.dimensions)
            each = asked.speaker.seconds_per_vote
            with (
                self._reservations.answer(),
                self._reservations.memory(held),
                self._reservations.votes(model.name, ballot.votes, each, limit),
            ):
                async with within(limit):
                    said = await self._closed(asked, ballot)
        else:
            context, settings = answerer.prompter.context, self._settings
            generation = answering.generation(request, prompt, context, settings)
            again = answering.further(request, wanted, settings)
            self._check_budget(wanted, again, model)
            with self._reservations.answer():
                async with within(limit):
                    said = await self._open(asked, generation, again)
        result, shown, spoken, beside = said
        if not shown.is_of(result.data):
            raise _changed()
        self._metrics.answer_tokens.inc(spoken.tokens)
        timing = _lasting(result, arrived)
        return answering.result(result, shown, spoken, prompt, plan.confidence, beside, timing)

    def _check_budget(self, wanted: EmbedRequest, beside: EmbedRequest, model: LoadedModel) -> None:
        """Of all that an answer draws: its parts are charged alone, but fail together."""
        parts = [part for part in (wanted, beside) if part.images]
        plans = [self._embedder.plan(part, model) for part in parts]
        self._embedder.check_budget(
            sum(len(p.images) * plan.total for p, plan in zip(parts, plans, strict=True))
        )

    async def _open(self, asked: _Asked, generation: Generation, again: EmbedRequest) -> _Answered:
        """In the language's own words."""
        prompt = asked.prompt
        saying = Saying(prompt, generation)
        if asked.told is not None:
            loop, told = asyncio.get_running_loop(), asked.told
            saying.told = lambda text: soon(loop, partial(told, Said(text)))
        shown = Shown(asked.answerer, prompt.pictures)

        async def speak() -> Spoken:
            (spoken,) = await self._said(asked, shown, [saying])
            return spoken

        main = self._sampled(asked, asked.wanted, shown, speak, asked.listener)
        if not again.images:
            result, spoken = await main
            return result, shown, spoken, None
        others = [Saying(prompt, generation) for _ in range(asked.request.stability_draws)]
        apart = Shown(asked.answerer, len(again.images))
        beside = self._sampled(asked, again, apart, lambda: self._said(asked, apart, others), None)
        (result, spoken), (_, said) = await both(main, beside)
        stable = answering.stability(spoken.text, [one.text for one in said])
        return result, shown, spoken, stable

    async def _closed(self, asked: _Asked, ballot: Ballot) -> _Answered:
        """One of the choices, and the votes on it."""
        shown = Shown(asked.answerer, asked.prompt.pictures)

        async def choose() -> int:
            (choice,) = await self._polled(asked, ballot, [shown.maps])
            if asked.told is not None:
                asked.told(Said(ballot.texts[choice]))
            return choice

        main = self._sampled(asked, asked.wanted, shown, choose, asked.listener)
        (result, choice), (voters, votes) = await both(main, self._voted(asked, ballot))
        if voters.revision != result.revision:
            raise _changed()
        spoken = Spoken(ballot.texts[choice], len(ballot.tokens[choice]) - 1, "stop")
        space, seeded = asked.model.info.space, asked.wanted.seed is not None
        pictures = asked.prompt.pictures
        vote = voting.vote(ballot, choice, votes, asked.plan, pictures, space, seeded)
        return result, shown, spoken, vote

    async def _voted(self, asked: _Asked, ballot: Ballot) -> tuple[EmbedResult, list[int]]:
        """Draws of their own, and the choice of each."""
        wanted = voting.voters(asked.wanted, ballot)
        result, sampled = await self._embedder.embed(
            asked.serving, wanted, make_watch=Draws, party=asked
        )
        return result, await self._polled(asked, ballot, Views(asked.answerer, sampled))

    async def _sampled(
        self,
        asked: _Asked,
        wanted: EmbedRequest,
        shown: Shown,
        then: Callable[[], Awaitable[T]],
        listener: Listener | None,
    ) -> tuple[EmbedResult, T]:
        """Sample pictures, and do something beside it as soon as all their means are known."""
        loop = asyncio.get_running_loop()
        ready: asyncio.Future[None] = loop.create_future()
        shown.complete = lambda: soon(loop, partial(_resolve, ready))

        async def beside() -> T:
            await ready
            return await then()

        sampling = self._embedder.embed(
            asked.serving, wanted, listener=listener, shown=shown, party=asked
        )
        (result, _), done = await both(sampling, beside())
        return result, done

    async def _said(self, asked: _Asked, shown: Shown, sayings: list[Saying]) -> list[Spoken]:
        """Answers, each of as many of the pictures shown."""
        maps = shown.maps
        each = len(maps) // len(sayings)
        try:
            with tracing.span(
                "answer", {"fcs.model": asked.model.name, "fcs.answers": len(sayings)}
            ) as span:
                for i, saying in enumerate(sayings):
                    saying.maps = maps[i * each : (i + 1) * each]
                    asked.speaker.say(saying)
                futures = [asyncio.wrap_future(one.future) for one in sayings]
                said = await asyncio.gather(*futures)
                span.set_attribute("fcs.tokens", sum(one.tokens for one in said))
                return said
        finally:
            for saying in sayings:
                saying.future.cancel()

    async def _polled(
        self, asked: _Asked, ballot: Ballot, shown: Sequence[Sequence[Tensor]]
    ) -> list[int]:
        """The choice for each of what is shown."""
        poll = Poll(asked.prompt, ballot.tokens, shown)
        try:
            with tracing.span("answer", {"fcs.model": asked.model.name, "fcs.votes": len(shown)}):
                asked.speaker.ask(poll)
                return await asyncio.wrap_future(poll.future)
        finally:
            poll.future.cancel()


_Answered = tuple[EmbedResult, Shown, Spoken, Stability | Vote | None]


@dataclass(frozen=True, slots=True)
class _Asked:
    """A request, admitted: what is asked of which model, and how its pictures are sampled."""

    serving: Serving
    request: AnswerRequest
    wanted: EmbedRequest
    model: LoadedModel
    answerer: Answerer
    prompt: Prompt
    plan: SamplingPlan
    told: Told | None

    @property
    def speaker(self) -> Speaker:
        """Of the model's language."""
        return self.serving.speakers[self.model.name]

    @property
    def listener(self) -> Listener | None:
        """Passes on that the request was accepted."""
        told = self.told
        if told is None:
            return None
        return lambda event: told(event) if isinstance(event, Accepted) else None


def _resolve(ready: asyncio.Future[None]) -> None:
    if not ready.done():
        ready.set_result(None)


def _changed() -> ServiceError:
    return unavailable("the batch shape changed while this was answered: ask again")


def _lasting(result: EmbedResult, arrived: float) -> Timing:
    return replace(result.timing, total_ms=1000 * (time.monotonic() - arrived))
