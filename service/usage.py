"""What one request used, told by whoever works on it and read by the door at its end.

Beside the caller, who asks, this is what came of it: both are for lines in logs, never for results.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass


@dataclass(slots=True)
class Usage:
    """One request's.

    Attributes:
        route: its template or method, as in the metrics, as soon as that is known.
        samples: drawn for it so far.
        received: bytes of its message; None while there is none.
    """

    route: Callable[[], str]
    samples: int = 0
    received: int | None = None


_present: ContextVar[Usage | None] = ContextVar("fcs_usage", default=None)


def present() -> Usage | None:
    """Of the request that is worked on here; None outside of any."""
    return _present.get()


@contextmanager
def counting(usage: Usage) -> Iterator[None]:
    """What runs inside, tasks and `asyncio.to_thread` included, counts for this request."""
    token = _present.set(usage)
    try:
        yield
    finally:
        _present.reset(token)


def add_samples(count: int) -> None:
    """So many were drawn for the present request, if there is one."""
    if (usage := _present.get()) is not None:
        usage.samples += count


def set_received(count: int) -> None:
    """The message of the present request, if there is one, has so many bytes."""
    if (usage := _present.get()) is not None:
        usage.received = count
