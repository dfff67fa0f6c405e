"""What accepted requests hold of the queue and of memory; over the limits, an honest refusal.

On the event loop only. A request larger than a whole limit is admitted when nothing else is.
"""

import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from service.config import Settings
from service.errors import Kind, ServiceError
from service.forecast import Amount, Forecast, Held

_SHORTEST_WAIT_S = 1.0
_NEWEST = 0.2  # how much of the mean duration of answers the last one is


@dataclass(slots=True)
class Reservations:
    """The books of one core.

    Attributes:
        settings: limits of pending pictures, samples and bytes.
        pending_samples: samples accepted by the engine and not yet handed to the device.
        forecast: when those that are accepted will end.
        pictures: of requests that are sampled.
        answers: of language models, in the making.
    """

    settings: Settings
    pending_samples: Callable[[], int]
    forecast: Forecast
    pictures: int = 0
    _bytes: int = 0
    answers: int = 0
    _votes: Counter[str] = field(default_factory=Counter)
    _answer_s: float = 0.0  # that one takes, the newest counting most
    _undecoded_samples: int = 0
    _since: float = 0.0  # the last end of a request that was sampled, or when the books filled
    _held: list[Held] = field(default_factory=list)

    @contextmanager
    def request(
        self,
        samples: int,
        pictures: int,
        memory: int,
        deadline: float,
        stops_early: bool,
        party: object = None,
    ) -> Iterator[Held]:
        """Hold a request's share of the queue, or refuse at once.

        Args:
            samples: of all its pictures.
            pictures: in it.
            memory: bytes that the statistics of its samples hold.
            deadline: when it ends at the latest, monotonic seconds.
            stops_early: it may end before all samples are drawn.
            party: what is held for the same is not in the way; None: of no party.

        Raises:
            ServiceError: busy.
        """
        s = self.settings
        own = [held for held in self._held if party is not None and held.party is party]
        wanted, free = Amount(samples, pictures, memory), self._free_beside(own)
        fits = (
            wanted.samples <= free.samples
            and wanted.pictures <= free.pictures
            and wanted.memory <= free.memory
        )
        began = time.monotonic()
        if len(self._held) > len(own) and not fits:
            waiting = s.max_pending_samples - free.samples
            raise ServiceError(
                Kind.BUSY,
                f"no room for {samples} samples of {pictures} pictures ({memory} bytes) beside the"
                f" {waiting} samples of {self.pictures} pictures ({self._bytes} bytes) that wait"
                f" (limits: {s.max_pending_samples} samples, {s.max_pending_pictures} pictures,"
                f" {s.max_pending_bytes} bytes)",
                retry_after_s=self._wait_s(wanted, began),
            )
        if not self._held:
            self._since = began
        self.pictures += pictures
        self._bytes += memory
        held = Held(samples, pictures, memory, deadline, stops_early, party)
        self._held.append(held)
        try:
            yield held
        finally:
            self._held.remove(held)
            self.pictures -= pictures
            self._bytes -= memory
            if held.left is not None:  # else it ended before any of its samples was drawn
                now = time.monotonic()
                self.forecast.learn(held, now - self._since)
                self._since = now

    @contextmanager
    def answer(self) -> Iterator[None]:
        """Hold a place among the answers, or refuse at once.

        Raises:
            ServiceError: busy.
        """
        most = self.settings.max_pending_answers
        if self.answers >= most:
            raise ServiceError(
                Kind.BUSY,
                f"{self.answers} answers are in the making (limit: {most})",
                retry_after_s=max(_SHORTEST_WAIT_S, self._answer_s / self.answers),
            )
        self.answers += 1
        began = time.monotonic()
        try:
            yield
        finally:
            self.answers -= 1
            lasted = time.monotonic() - began
            self._answer_s += _NEWEST * (lasted - self._answer_s) if self._answer_s else lasted

    @contextmanager
    def memory(self, needed: int) -> Iterator[None]:
        """Hold bytes beside those of the samples, or refuse at once.

        Raises:
            ServiceError: busy.
        """
        most = self.settings.max_pending_bytes
        if self._bytes and self._bytes + needed > most:
            raise ServiceError(
                Kind.BUSY,
                f"no room for {needed} bytes beside the {self._bytes} that wait (limit: {most})",
                retry_after_s=self._wait_s(Amount(0, 0, needed), time.monotonic()),
            )
        self._bytes += needed
        try:
            yield
        finally:
            self._bytes -= needed

    @contextmanager
    def decoding(self, samples: int) -> Iterator[None]:
        """Count samples as waiting while the pictures they belong to are decoded."""
        self._undecoded_samples += samples
        try:
            yield
        finally:
            self._undecoded_samples -= samples

    @contextmanager
    def votes(self, model: str, count: int, seconds_each: float, limit_s: float) -> Iterator[None]:
        """Hold places for votes, which are taken one request after the other, or refuse at once.

        Args:
            model: whose language takes them.
            count: of votes.
            seconds_each: that one takes; 0 where none was taken yet.
            limit_s: until the request fails.

        Raises:
            ServiceError: busy; those before it would not leave it the time.
        """
        before = self._votes[model]
        over_s = (before + count) * seconds_each - limit_s
        if before and over_s > 0:
            raise ServiceError(
                Kind.BUSY,
                f"{before} votes come before these {count}, at {seconds_each:.2g} s each: more"
                f" than timeout_ms = {limit_s * 1000:g}",
                retry_after_s=max(_SHORTEST_WAIT_S, over_s),
            )
        self._votes[model] += count
        try:
            yield
        finally:
            self._votes[model] -= count

    def _free_beside(self, own: Sequence[Held]) -> Amount:
        """What others leave of the limits."""
        s = self.settings
        waiting = self.pending_samples() + self._undecoded_samples
        return Amount(
            s.max_pending_samples - waiting + sum(held.outstanding for held in own),
            s.max_pending_pictures - self.pictures + sum(held.pictures for held in own),
            s.max_pending_bytes - self._bytes + sum(held.memory for held in own),
        )

    def _wait_s(self, wanted: Amount, now: float) -> float:
        free = self._free_beside(())
        return max(_SHORTEST_WAIT_S, self.forecast.room_s(self._held, free, wanted, now))
