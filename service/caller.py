"""Who asks, and under which id: told by the doors, read wherever a request's work goes.

Kept beside the request, not in it: a log line, a span or a budget needs it, a result never does.
"""

import re
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

REQUEST_ID = "x-request-id"  # header of HTTP and key of gRPC metadata, in and out
_WELL_FORMED = re.compile(r"[A-Za-z0-9._-]{1,128}")


@dataclass(frozen=True, slots=True)
class Caller:
    """One request's origin.

    Attributes:
        request_id: the client's own where it was well formed, else made here.
        client: name of the API key that it came with; None where none is asked for.
    """

    request_id: str
    client: str | None = None


_present: ContextVar[Caller | None] = ContextVar("fcs_caller", default=None)


def present() -> Caller | None:
    """Of the request that is worked on here; None outside of any."""
    return _present.get()


@contextmanager
def calling(caller: Caller) -> Iterator[None]:
    """What runs inside, tasks and `asyncio.to_thread` included, is done for this caller."""
    token = _present.set(caller)
    try:
        yield
    finally:
        _present.reset(token)


def request_id(given: str | None) -> str:
    """The id that a client sent, if it may stand in a log line as it is; else a new one."""
    if given is not None and _WELL_FORMED.fullmatch(given):
        return given
    return uuid.uuid4().hex
