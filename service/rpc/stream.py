"""`EmbedStream`: many requests over one call, each answered when it is done.

The next request is read when one was answered, so that a client is held back by the transport's
own flow control and a stream never holds more than its share. Cancelling the call, a broken
connection and its deadline all cancel `run`, and with it every request in work.
"""

import asyncio
import logging
import time
from collections.abc import AsyncIterator

from google.protobuf.message import DecodeError

from service import types
from service.caller import present
from service.core import Core
from service.errors import Kind, ServiceError, invalid
from service.following import Listener
from service.mailbox import Mailbox
from service.rpc import convert
from service.rpc.access import tell
from service.rpc.errors import STATUS
from service.rpc.generated import fcs_pb2 as pb
from service.rpc.shared import CANCELLED, Context, check_size, count, let_go, made, write
from service.usage import Usage, counting

_log = logging.getLogger(__name__)
_ROUTE = "/fcs.v1.Fcs/EmbedStream"
_MAX_ID = 100
_END = -1  # in place of the index of a picture


class RequestStream:
    """One call.

    Args:
        core: does the work.
        requests: serialized `EmbedStreamRequest`.
        context: of the call, to which the answers are written.
    """

    def __init__(self, core: Core, requests: AsyncIterator[bytes], context: Context) -> None:
        self._core = core
        self._requests = requests
        self._context = context
        self._room = asyncio.Semaphore(core.settings.max_stream_requests)
        self._news: Mailbox[tuple[int, int], pb.EmbedStreamResponse] = Mailbox()
        self._patience_s = core.settings.body_timeout_ms / 1000
        self._silent = False
        self._admissions = 0  # of this stream, that the core holds something for
        self._ended = asyncio.Event()  # set, and replaced, when one of them is over

    async def run(self) -> None:
        """Answer everything until the client has no more to ask.

        Raises:
            ServiceError: deadline: it asks nothing, or takes no answer.
        """
        reading = asyncio.create_task(self._read())
        reading.add_done_callback(lambda _: self._news.close())
        try:
            while (response := await self._news.get()) is not None:
                await write(self._context, response, self._patience_s)
                if response.WhichOneof("event") in {"result", "error"}:
                    self._room.release()
            await reading
            if self._silent:
                raise ServiceError(
                    Kind.DEADLINE,
                    f"nothing was asked and nothing in work for {self._patience_s:g} seconds",
                )
        finally:
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)
            await let_go(self._requests)

    async def _read(self) -> None:
        """Start each request when there is room for it; ends when the last one has ended."""
        async with asyncio.TaskGroup() as group:
            serial, working = 0, set[asyncio.Task[None]]()
            await self._room.acquire()
            while (data := await self._asked(working)) is not None:
                task = group.create_task(self._serve(serial, data))
                working.add(task)
                task.add_done_callback(working.discard)
                serial += 1
                await self._room.acquire()

    async def _asked(self, working: set[asyncio.Task[None]]) -> bytes | None:
        """The next request; None when there will be none, or none came while none was in work."""
        asking = asyncio.ensure_future(anext(self._requests, None))
        try:
            while not asking.done():
                idle = not working
                await asyncio.wait({asking}, timeout=self._patience_s)
                if not asking.done() and idle and not working:
                    self._silent = True
                    return None
            return asking.result()
        finally:
            asking.cancel()

    async def _serve(self, serial: int, data: bytes) -> None:
        """One request: its result or its error, whatever it is."""
        began, code, used = time.monotonic(), CANCELLED, Usage(lambda: _ROUTE)
        caller = present()
        client = None if caller is None else caller.client
        try:
            try:
                with counting(used), self._core.gate.charged(client):
                    response = await self._answer(serial, data, began)
                code = "OK"
            except ServiceError as error:
                response = _failed(data, error)
                code = STATUS[error.kind].name
                self._core.metrics.rejections.labels(reason=error.kind.value).inc()
            except Exception:
                _log.exception("unexpected failure in %s", _ROUTE)
                bug = ServiceError(Kind.INTERNAL, "unexpected failure; see the log")
                response = _failed(data, bug)
                code = STATUS[bug.kind].name
        finally:
            count(self._core.metrics, _ROUTE, code, began)
            tell(code, began, used)
        self._news.put((serial, _END), response)

    async def _answer(self, serial: int, data: bytes, began: float) -> pb.EmbedStreamResponse:
        settings = self._core.settings
        check_size(data, settings)
        message = await made(data, lambda: convert.parse(pb.EmbedStreamRequest, data))
        if len(message.id) > _MAX_ID:
            raise invalid(f"the id has {len(message.id)} characters; at most {_MAX_ID}", "id")

        def heard(event: types.Event) -> None:
            if not isinstance(event, types.Accepted):
                news = convert.stream_event(event)
                news.id = message.id
                self._news.put((serial, event.index), news)

        remaining, most = self._context.time_remaining(), settings.max_timeout_ms / 1000
        request = await made(data, lambda: convert.embed_request(message.request, remaining, most))
        result = await self._embed(request, heard if message.progress else None, began)
        answer = await asyncio.to_thread(convert.embed_response, result)
        return pb.EmbedStreamResponse(id=message.id, result=answer)

    async def _embed(
        self, request: types.EmbedRequest, listener: Listener | None, began: float
    ) -> types.EmbedResult:
        """The core's answer; a queue that is full of this stream's own work is waited for."""
        try:
            return await self._admitted(request, listener)
        except ServiceError as error:
            if error.kind is not Kind.BUSY or not self._admissions:
                raise
        allowed_s = request.timeout_s
        if allowed_s is None:
            allowed_s = self._core.settings.default_timeout_ms / 1000
        try:
            async with asyncio.timeout(allowed_s - (time.monotonic() - began)):
                while True:
                    await self._ended.wait()
                    try:
                        return await self._admitted(request, listener)
                    except ServiceError as error:
                        if error.kind is not Kind.BUSY or not self._admissions:
                            raise
        except TimeoutError as error:
            raise ServiceError(
                Kind.DEADLINE, f"not finished within timeout_ms = {allowed_s * 1000:g}"
            ) from error

    async def _admitted(
        self, request: types.EmbedRequest, listener: Listener | None
    ) -> types.EmbedResult:
        """Raises busy at once, or holds a share of the queue until it is answered."""
        refused = False
        self._admissions += 1
        try:
            return await self._core.embed(request, listener=listener)
        except ServiceError as error:
            refused = error.kind is Kind.BUSY
            raise
        finally:
            self._admissions -= 1
            if not refused:  # else those who wait would wake each other for nothing
                ended, self._ended = self._ended, asyncio.Event()
                ended.set()


def _failed(data: bytes, error: ServiceError) -> pb.EmbedStreamResponse:
    """The error under its request's id, as far as that can be read."""
    try:
        id_ = pb.EmbedStreamRequest.FromString(data).id[:_MAX_ID]
    except DecodeError:
        id_ = ""
    return pb.EmbedStreamResponse(id=id_, error=convert.stream_error(error))
