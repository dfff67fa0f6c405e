"""What every method does with a message and with its count."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from typing import Any, TypeVar

from google.protobuf.message import Message
from grpc.aio import ServicerContext

from service import usage
from service.access.gate import Gate
from service.config import Settings
from service.errors import Kind, ServiceError, too_large
from service.metrics import Metrics

Context = ServicerContext[Any, Any]
CANCELLED = "CANCELLED"
_LARGE = 64 * 1024
T = TypeVar("T")


def client_of(gate: Gate, context: Context) -> str | None:
    """The name of the key in a call's metadata; None: no valid one, or none is asked for."""
    sent = dict(context.invocation_metadata() or ())
    bearer, key = (
        value if isinstance(value := sent.get(name), str) else None
        for name in ("authorization", "x-api-key")
    )
    return gate.client_of(bearer, key)


def check_size(message: bytes, settings: Settings) -> None:
    """The servicer's own limit, the library's lies above it; the size is told in the log.

    Raises:
        ServiceError: too_large.
    """
    usage.set_received(len(message))
    most = settings.max_body_bytes
    if len(message) > most:
        raise too_large(f"the message has {len(message)} bytes; at most {most} are accepted")


async def made(message: bytes, make: Callable[[], T]) -> T:
    """What is made of a message; of a large one in a thread, for it may have millions of parts."""
    return make() if len(message) < _LARGE else await asyncio.to_thread(make)


def count(metrics: Metrics, route: str, code: str, began: float) -> None:
    """`fcs_requests_total` and `fcs_request_seconds` of a request that began then, monotonic."""
    metrics.requests.labels(route=route, code=code).inc()
    metrics.request_seconds.labels(route=route).observe(time.monotonic() - began)


async def let_go(messages: AsyncIterator[Any]) -> None:
    """End the reading of a call's messages.

    The library's reader holds its last message in a cycle with itself, until a full collection of
    garbage, which with torch in memory is rare.
    """
    if (close := getattr(aiter(messages), "aclose", None)) is not None:
        await close()


async def write(context: Context, message: Message, most_s: float) -> None:
    """Send one message of a stream to a client that takes it in time.

    Raises:
        ServiceError: deadline.
    """
    try:
        async with asyncio.timeout(most_s):
            await context.write(message)
    except TimeoutError as error:
        raise ServiceError(
            Kind.DEADLINE, f"the client took nothing for {most_s:g} seconds"
        ) from error
