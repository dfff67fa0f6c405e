"""Waiting on an event loop: within a limit, for what fails as one, from other threads."""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from typing import Any, TypeVar

from service.errors import Kind, ServiceError

T = TypeVar("T")
U = TypeVar("U")


@asynccontextmanager
async def within(limit_s: float) -> AsyncIterator[None]:
    """Cancel what runs inside when `limit_s` seconds have passed, and say so.

    Raises:
        ServiceError: deadline.
    """
    try:
        async with asyncio.timeout(limit_s):
            yield
    except TimeoutError as error:
        raise ServiceError(
            Kind.DEADLINE, f"not finished within timeout_ms = {limit_s * 1000:g}"
        ) from error


async def both(one: Coroutine[Any, Any, T], other: Coroutine[Any, Any, U]) -> tuple[T, U]:
    """Run two side by side; the failure of either is that of both, and nothing keeps running."""
    first, second = asyncio.ensure_future(one), asyncio.ensure_future(other)
    try:
        return await asyncio.gather(first, second)
    finally:
        first.cancel()
        second.cancel()
        await asyncio.gather(first, second, return_exceptions=True)


def soon(loop: asyncio.AbstractEventLoop, call: Callable[[], object]) -> None:
    """From another thread: on the loop, unless it has ended and nobody listens."""
    with suppress(RuntimeError):
        loop.call_soon_threadsafe(call)
