"""The gRPC methods: convert, call the core, convert. Cancelling a call cancels its work."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, TypeVar

import grpc

from service import types
from service.core import Core
from service.errors import Kind, ServiceError
from service.mailbox import Mailbox
from service.rpc import convert
from service.rpc.errors import STATUS, abort
from service.rpc.generated import fcs_pb2 as pb
from service.rpc.shared import CANCELLED, Context, check_size, count, made, write
from service.rpc.stream import RequestStream

_log = logging.getLogger(__name__)
T = TypeVar("T")


class FcsServicer:
    """`fcs.v1.Fcs` over one core, on raw messages: what does not parse gets its status here."""

    def __init__(self, core: Core) -> None:
        self._core = core

    async def embed(self, message: bytes, context: Context) -> pb.EmbedResponse:
        """Robust embeddings with certificates."""

        def parsed() -> types.EmbedRequest:
            request = convert.parse(pb.EmbedRequest, message)
            return convert.embed_request(request, *self._times(context))

        async def work() -> pb.EmbedResponse:
            check_size(message, self._core.settings)
            result = await self._core.embed(await made(message, parsed))
            return await asyncio.to_thread(convert.embed_response, result)

        return await self._answered("Embed", context, work)

    async def embed_stream(self, requests: AsyncIterator[bytes], context: Context) -> None:
        """Many requests over one call, answered as they finish."""
        try:
            await RequestStream(self._core, requests, context).run()
        except ServiceError as error:  # of the whole call; each request has its own
            self._core.metrics.rejections.labels(reason=error.kind.value).inc()
            await abort(context, error)

    async def classify(self, message: bytes, context: Context) -> pb.ClassifyResponse:
        """Labels and nearest neighbours with certified radii."""

        def parsed() -> types.ClassifyRequest:
            request = convert.parse(pb.ClassifyRequest, message)
            return convert.classify_request(request, *self._times(context))

        async def work() -> pb.ClassifyResponse:
            check_size(message, self._core.settings)
            request = await made(message, parsed)
            return convert.classify_response(await self._core.classify(request))

        return await self._answered("Classify", context, work)

    async def answer(self, message: bytes, context: Context) -> None:
        """What a language model says, piece by piece; what was not read yet is one piece."""
        unread, patience_s = "", self._core.settings.body_timeout_ms / 1000
        news: Mailbox[int, bool] = Mailbox()

        def heard(event: types.Said | types.Event) -> None:
            nonlocal unread
            if isinstance(event, types.Said):
                unread += event.text
                news.put(0, True)

        async def tell() -> None:
            nonlocal unread
            while await news.get():
                text, unread = unread, ""
                await write(context, pb.AnswerResponse(text=text), patience_s)

        def parsed() -> types.AnswerRequest:
            request = convert.parse(pb.AnswerRequest, message)
            return convert.answer_request(request, *self._times(context))

        async def work() -> None:
            check_size(message, self._core.settings)
            request = await made(message, parsed)
            telling = asyncio.create_task(tell())
            try:
                result = await self._core.answer(request, heard)
                news.close()
                await telling
            finally:
                telling.cancel()
            await write(context, convert.answer_result(result), patience_s)

        await self._answered("Answer", context, work)

    async def info(self, message: bytes, context: Context) -> pb.InfoResponse:
        """Models, noise levels, limits and defaults."""

        async def work() -> pb.InfoResponse:
            check_size(message, self._core.settings)
            await made(message, lambda: convert.parse(pb.InfoRequest, message))
            return convert.info_response(self._core.info())

        return await self._answered("Info", context, work)

    def _times(self, context: Context) -> tuple[float | None, float]:
        """Seconds that the call has left, and the most that a request may ask for."""
        return context.time_remaining(), self._core.settings.max_timeout_ms / 1000

    async def _answered(self, method: str, context: Context, work: Callable[[], Awaitable[T]]) -> T:
        """Run a method with its errors mapped and its request counted."""
        began, code = time.monotonic(), CANCELLED
        route = f"/fcs.v1.Fcs/{method}"
        try:
            answer = await work()
            code = "OK"
            return answer
        except ServiceError as error:
            code = STATUS[error.kind].name
            self._core.metrics.rejections.labels(reason=error.kind.value).inc()
            await abort(context, error)
        except Exception:
            _log.exception("unexpected failure in %s", route)
            code = STATUS[Kind.INTERNAL].name
            await abort(context, ServiceError(Kind.INTERNAL, "unexpected failure; see the log"))
        finally:
            count(self._core.metrics, route, code, began)


def handlers(servicer: FcsServicer) -> grpc.GenericRpcHandler:
    """The methods of the service, without deserialisers: the servicer parses."""

    def unary(behaviour: Any) -> Any:
        return grpc.unary_unary_rpc_method_handler(
            behaviour, response_serializer=lambda response: response.SerializeToString()
        )

    methods = {
        "Embed": unary(servicer.embed),
        "EmbedStream": grpc.stream_stream_rpc_method_handler(
            servicer.embed_stream, response_serializer=lambda response: response.SerializeToString()
        ),
        "Classify": unary(servicer.classify),
        "Answer": grpc.unary_stream_rpc_method_handler(
            servicer.answer, response_serializer=lambda response: response.SerializeToString()
        ),
        "Info": unary(servicer.info),
    }
    return grpc.method_handlers_generic_handler("fcs.v1.Fcs", methods)
