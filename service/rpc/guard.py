"""Every gRPC call passes the gate before its message is read; health asks for nothing."""

import asyncio
import inspect
import time
from collections.abc import AsyncIterator
from contextlib import ExitStack
from typing import Any

import grpc

from service.core import Core
from service.errors import Kind, ServiceError, invalid
from service.rpc.errors import STATUS, abort
from service.rpc.shared import Context, client_of, count, let_go

_HEALTH = "/grpc.health.v1.Health/"
_EMBED_STREAM = "/fcs.v1.Fcs/EmbedStream"  # charges each of its requests itself


class Guard(grpc.aio.ServerInterceptor):
    """Stands before the methods.

    Every method is run as one that reads its messages itself: otherwise the library would have
    taken the whole message before anything is decided.

    Args:
        core: whose gate decides, and whose metrics count refusals.
    """

    def __init__(self, core: Core) -> None:
        self._core = core

    async def intercept_service(self, continuation: Any, details: Any) -> Any:
        """Wrap every method but those of health."""
        handler = await continuation(details)
        if handler is None or details.method.startswith(_HEALTH):
            return handler
        make = (
            grpc.stream_stream_rpc_method_handler
            if handler.response_streaming
            else grpc.stream_unary_rpc_method_handler
        )
        return make(
            self._guarded(handler, details.method),
            request_deserializer=handler.request_deserializer,
            response_serializer=handler.response_serializer,
        )

    def _guarded(self, handler: Any, method: str) -> Any:
        gate = self._core.gate
        hold = gate.stream if method == _EMBED_STREAM else gate.request

        async def guarded(messages: AsyncIterator[Any], context: Context) -> Any:
            began = time.monotonic()
            with ExitStack() as held:
                try:
                    held.enter_context(hold(client_of(gate, context)))
                    asked = (
                        await self._only(messages) if not handler.request_streaming
                        else messages if method == _EMBED_STREAM
                        else self._in_time(messages)
                    )  # fmt: skip
                except ServiceError as error:
                    self._core.metrics.rejections.labels(reason=error.kind.value).inc()
                    count(self._core.metrics, method, STATUS[error.kind].name, began)
                    await abort(context, error)
                try:
                    return await _run(handler, asked, context)
                except ServiceError as error:  # the methods tell their own
                    await abort(context, error)

        return guarded

    async def _only(self, messages: AsyncIterator[Any]) -> Any:
        """The message of a call that has one."""
        try:
            return await self._next(messages)
        except StopAsyncIteration as error:
            raise invalid("the call ended without a message") from error
        finally:
            await let_go(messages)

    async def _in_time(self, messages: AsyncIterator[Any]) -> AsyncIterator[Any]:
        """The messages of a stream that the library answers, none of which is long in coming."""
        try:
            while True:
                try:
                    message = await self._next(messages)
                except StopAsyncIteration:
                    return
                yield message
        finally:
            await let_go(messages)

    async def _next(self, messages: AsyncIterator[Any]) -> Any:
        most_s = self._core.settings.body_timeout_ms / 1000
        try:
            async with asyncio.timeout(most_s):
                return await anext(messages)
        except TimeoutError as error:
            raise ServiceError(
                Kind.DEADLINE, f"the message did not arrive within {most_s:g} seconds"
            ) from error


async def _run(handler: Any, asked: Any, context: Context) -> Any:
    behaviour = next(
        found
        for kind in ("unary_unary", "unary_stream", "stream_unary", "stream_stream")
        if (found := getattr(handler, kind)) is not None
    )
    if not inspect.isasyncgenfunction(behaviour):
        return await behaviour(asked, context)
    async for response in behaviour(asked, context):
        await context.write(response)
    return None
