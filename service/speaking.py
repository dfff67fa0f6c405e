"""The thread of a model's language: decodes answers, many at once, and takes polls between them.

An answer joins at the next token after its features are there; until then, and while others
decode, the device goes on sampling. Who left is dropped at the next token. A failure of one
answer's prompt is its own; a failure of a step that they share fails those in it, and the next ones
are tried anew. While somebody speaks, polls have half of the time.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from service.errors import Kind, ServiceError, unavailable
from service.polling import Poll
from service.types import FinishReason, Generation

if TYPE_CHECKING:
    from service.models.answerer.answerer import Answerer
    from service.models.answerer.decoding import Decoder, Row
    from service.models.answerer.prompt import Prompt

_log = logging.getLogger(__name__)
_LONGEST_END_S = 2.0
_NEWEST = 0.1  # how much of the mean time of a vote the last batch is
_UNFINISHED = "�"  # bytes of a character whose rest is yet to come


@dataclass(frozen=True, slots=True)
class Spoken:
    """An answer as it ended.

    Attributes:
        text: stop texts left out.
        tokens: of the answer.
    """

    text: str
    tokens: int
    finish: FinishReason


@dataclass(slots=True, eq=False)
class Saying:
    """One answer: asked, in the making, or ended.

    Attributes:
        maps: what the language is shown; there before it is said.
        told: called on the decoding thread with each new piece of text.
        future: of the whole; cancelled, the answer is dropped.
    """

    prompt: Prompt
    generation: Generation
    maps: tuple[Tensor, ...] = ()
    told: Callable[[str], None] | None = None
    future: Future[Spoken] = field(default_factory=Future)
    said: str = ""
    row: Row | None = None


class Speaker:
    """Decodes for one model.

    Args:
        answerer: of the model.
        most: answers that are decoded together; more wait for one to end.
        threads: torch's own.

    Attributes:
        seconds_per_vote: of late; 0 before the first.
    """

    def __init__(self, answerer: Answerer, most: int, threads: int = 1) -> None:
        self._answerer, self._most, self._threads = answerer, most, threads
        self._waiting: deque[Saying] = deque()
        self._speaking: list[Saying] = []
        self._reading: Saying | None = None  # its prompt is
        self._polls: deque[Poll] = deque()
        self.seconds_per_vote = 0.0
        self._poll_after = 0.0  # monotonic seconds; until then those who speak go on alone
        self._wake = threading.Condition()
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="fcs-speaker", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """End the thread; answers in the making fail as unavailable.

        A prompt that is being read cannot be interrupted: it is not waited for long.
        """
        with self._wake:
            self._stopping = True
            self._wake.notify_all()
        if self._thread.is_alive():
            self._thread.join(_LONGEST_END_S)
        reading = [] if self._reading is None else [self._reading]
        left: list[Saying | Poll] = [*self._speaking, *reading, *self._waiting, *self._polls]
        for one in left:
            _fail(one, unavailable("the service is shutting down"))

    def say(self, saying: Saying) -> None:
        """Queue an answer; its future will be resolved."""
        with self._wake:
            if self._stopping:
                raise unavailable("the service is shutting down")
            self._waiting.append(saying)
            self._wake.notify_all()

    def ask(self, poll: Poll) -> None:
        """Queue a poll; its future will be resolved."""
        with self._wake:
            if self._stopping:
                raise unavailable("the service is shutting down")
            if len(poll.shown) == 1:  # an answer, not its votes: somebody may be reading along
                self._polls.appendleft(poll)
            else:
                self._polls.append(poll)
            self._wake.notify_all()

    @property
    def pending_votes(self) -> int:
        """Of all polls, what is not asked yet."""
        return sum(len(poll.shown) - len(poll.found) for poll in list(self._polls))

    @property
    def waiting(self) -> int:
        """Answers that are not decoded yet."""
        return len(self._waiting)

    def _run(self) -> None:
        torch.set_num_threads(self._threads)
        decoder = self._answerer.decoder()
        while True:
            with self._wake:
                self._wake.wait_for(lambda: self._stopping or self._busy)
                if self._stopping:
                    return
            try:
                self._step(decoder)
            except Exception as error:
                _log.exception("a step of the answers failed")
                for saying in self._speaking:
                    _fail(saying, _internal(error))
                self._speaking = []
                decoder = self._answerer.decoder()
            self._poll(decoder)

    @property
    def _busy(self) -> bool:
        return bool(self._waiting or self._speaking or self._polls)

    def _poll(self, decoder: Decoder) -> None:
        """One batch of the first poll, unless those who speak are owed some time.

        One poll after the other: in turns, all of them would end late.
        """
        began = time.monotonic()
        with self._wake:
            for left in [one for one in self._polls if one.future.done()]:
                self._polls.remove(left)
        if not self._polls or (self._speaking and began < self._poll_after):
            return
        poll = self._polls[0]
        try:
            poll.advance(decoder)
        except Exception as error:
            _log.exception("a poll failed")
            _fail(poll, _internal(error))
            return
        now = time.monotonic()
        self._poll_after = now + (now - began)
        each = (now - began) / poll.rows
        share = _NEWEST if self.seconds_per_vote else 1
        self.seconds_per_vote += share * (each - self.seconds_per_vote)
        if poll.complete:
            with suppress(InvalidStateError):  # it left in between
                poll.future.set_result(poll.found)

    def _step(self, decoder: Decoder) -> None:
        """Let new answers join, drop those that nobody waits for, one token for the rest."""
        while self._waiting and len(self._speaking) < self._most:
            self._reading = self._waiting[0]  # first: who stops the thread must find it somewhere
            self._waiting.popleft()
            self._begin(self._reading, decoder)
            self._reading = None
        for saying in [one for one in self._speaking if one.future.done()]:
            self._end(saying, decoder)
        if not self._speaking:
            return
        decoder.step()
        for saying in list(self._speaking):
            self._tell(saying, decoder)

    def _begin(self, saying: Saying, decoder: Decoder) -> None:
        if saying.future.done():
            return
        try:
            saying.row = decoder.begin(saying.prompt, saying.maps, saying.generation)
        except Exception as error:
            _log.exception("a prompt failed")
            _fail(saying, _internal(error))
            return
        self._speaking.append(saying)
        self._tell(saying, decoder)

    def _tell(self, saying: Saying, decoder: Decoder) -> None:
        """The text that is new, as far as it will not change, and the end if this is it."""
        row = saying.row
        if row is None:
            return
        try:
            text = self._answerer.text(row.ids)
            stop = _first(text, saying.generation.stop)
            finish: FinishReason | None = row.finish
            if stop is not None:
                text, finish = text[:stop], "stop"
            sure = text if finish else _sure(text, saying.generation.stop)
            if saying.told is not None and len(sure) > len(saying.said):
                saying.told(sure[len(saying.said) :])
            saying.said = max(saying.said, sure, key=len)
        except Exception as error:
            _log.exception("an answer failed")
            _fail(saying, _internal(error))
            self._end(saying, decoder)
            return
        if finish is not None:
            with suppress(InvalidStateError):  # it left in between
                saying.future.set_result(Spoken(text, len(row.ids), finish))
            self._end(saying, decoder)

    def _end(self, saying: Saying, decoder: Decoder) -> None:
        if saying.row is not None:
            decoder.leave(saying.row)
        self._speaking.remove(saying)


def _first(text: str, stops: tuple[str, ...]) -> int | None:
    """Where the first of the stop texts begins."""
    found = [place for stop in stops if (place := text.find(stop)) >= 0]
    return min(found, default=None)


def _sure(text: str, stops: tuple[str, ...]) -> str:
    """Without an unfinished character, and without what may be the beginning of a stop text."""
    text = text.rstrip(_UNFINISHED)
    held = max((_overlap(text, stop) for stop in stops), default=0)
    return text[: len(text) - held]


def _overlap(text: str, stop: str) -> int:
    """Length of the longest beginning of `stop` that `text` ends with."""
    return next((n for n in range(len(stop) - 1, 0, -1) if text.endswith(stop[:n])), 0)


def _internal(error: Exception) -> ServiceError:
    return ServiceError(Kind.INTERNAL, f"this could not be answered: {type(error).__name__}")


def _fail(one: Saying | Poll, error: ServiceError) -> None:
    with suppress(InvalidStateError):  # it left, or was answered
        if not one.future.done():
            one.future.set_exception(error)
