"""The gRPC methods: convert, call the core, convert. Cancelling a call cancels its work."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from grpc.aio import ServicerContext

from service.core import Core
from service.errors import Kind, ServiceError, too_large
from service.rpc import convert
from service.rpc.errors import STATUS, abort
from service.rpc.generated import fcs_pb2 as pb
from service.rpc.generated import fcs_pb2_grpc

_log = logging.getLogger(__name__)
T = TypeVar("T")
_CANCELLED = "CANCELLED"


class FcsServicer(fcs_pb2_grpc.FcsServicer):
    """`fcs.v1.Fcs` over one core."""

    def __init__(self, core: Core) -> None:
        self._core = core

    async def Embed(  # noqa: N802
        self, request: pb.EmbedRequest, context: "ServicerContext[Any, Any]"
    ) -> pb.EmbedResponse:
        """Robust embeddings with certificates."""
        remaining = context.time_remaining()
        if remaining is not None:  # far deadlines are cut to the limit, never refused
            remaining = min(max(remaining, 0.001), self._core.settings.max_timeout_ms / 1000)

        async def work() -> pb.EmbedResponse:
            most = self._core.settings.max_body_bytes
            if (size := request.ByteSize()) > most:
                raise too_large(f"the message has {size} bytes; at most {most} are accepted")
            result = await self._core.embed(convert.embed_request(request, remaining))
            return await asyncio.to_thread(convert.embed_response, result)

        return await self._answered("Embed", context, work)

    async def Info(  # noqa: N802
        self, request: pb.InfoRequest, context: "ServicerContext[Any, Any]"
    ) -> pb.InfoResponse:
        """Models, noise levels, limits and defaults."""

        async def work() -> pb.InfoResponse:
            convert.refuse_unknown(request)
            return convert.info_response(self._core.info())

        return await self._answered("Info", context, work)

    async def _answered(
        self, method: str, context: "ServicerContext[Any, Any]", work: Callable[[], Awaitable[T]]
    ) -> T:
        """Run a method with its errors mapped and its request counted."""
        began, code = time.monotonic(), _CANCELLED
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
            self._core.metrics.requests.labels(route=route, code=code).inc()
            seconds = time.monotonic() - began
            self._core.metrics.request_seconds.labels(route=route).observe(seconds)
