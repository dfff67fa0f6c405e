"""What each API key has spent and holds: requests, samples, and requests in work.

On the event loop only. The books are of this process: behind N replicas a key has N budgets.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from service.access.keys import ApiKey
from service.access.window import Window
from service.errors import Kind, ServiceError, invalid

_WAIT_S = 1.0  # for a request of its own to end, which nobody can foretell


@dataclass(slots=True)
class Drawing:
    """A charge for samples.

    Attributes:
        drawn: of them, so far; what is not drawn in the end is given back.
    """

    drawn: int = 0


@dataclass(slots=True)
class _Book:
    requests: Window = field(default_factory=Window)
    samples: Window = field(default_factory=Window)
    in_work: int = 0
    streams: int = 0


class Budgets:
    """The books of all keys, by name: they outlive a change of the key or of its limits.

    Args:
        clock: monotonic seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._books: dict[str, _Book] = {}

    @contextmanager
    def request(self, name: str, key: ApiKey) -> Iterator[None]:
        """Charge one request and hold its place, or refuse at once.

        Raises:
            ServiceError: rate.
        """
        book = self._book(name)
        _check_place(name, key, book.in_work, "requests in work")
        if (limit := key.requests_per_minute) is not None:
            now = self._clock()
            if wait := book.requests.wait_s(1, limit, now):
                raise _over(f"key {name!r} has made its {limit} requests of this minute", wait)
            book.requests.spend(1, now)
        book.in_work += 1
        try:
            yield
        finally:
            book.in_work -= 1

    @contextmanager
    def stream(self, name: str, key: ApiKey) -> Iterator[None]:
        """Hold a place for a call that carries requests of its own, each charged as it comes.

        Raises:
            ServiceError: rate.
        """
        book = self._book(name)
        _check_place(name, key, book.streams, "streams open")
        book.streams += 1
        try:
            yield
        finally:
            book.streams -= 1

    @contextmanager
    def samples(self, name: str, key: ApiKey, count: int) -> Iterator[Drawing]:
        """Charge samples before they are drawn, or refuse at once.

        Raises:
            ServiceError: rate; invalid for more than a whole minute's, which never fits.
        """
        drawing = Drawing()
        if key.samples_per_minute is None:
            yield drawing
            return
        self.check_samples(name, key, count)
        book = self._book(name)
        entry = book.samples.spend(count, self._clock())
        try:
            yield drawing
        finally:
            book.samples.give_back(entry, count - drawing.drawn)

    def check_samples(self, name: str, key: ApiKey, count: int) -> None:
        """Whether so many could be charged now.

        Raises:
            ServiceError: as `samples`.
        """
        if (limit := key.samples_per_minute) is None:
            return
        if count > limit:
            raise invalid(
                f"up to {count} samples in one request, but key {name!r} has {limit} a minute:"
                " it can never be served; ask for fewer samples or pictures",
                "samples",
            )
        if wait := self._book(name).samples.wait_s(count, limit, self._clock()):
            raise _over(
                f"no {count} samples are left of the {limit} a minute that key {name!r} has", wait
            )

    def _book(self, name: str) -> _Book:
        return self._books.setdefault(name, _Book())


def _check_place(name: str, key: ApiKey, held: int, what: str) -> None:
    limit = key.concurrent_requests
    if limit is not None and held >= limit:
        raise _over(f"key {name!r} has {held} {what} (limit: {limit})", _WAIT_S)


def _over(message: str, wait_s: float) -> ServiceError:
    return ServiceError(Kind.RATE, message, retry_after_s=wait_s)
