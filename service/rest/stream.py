"""`POST /embed/stream`: one request as server-sent events, for readers of any speed.

The response begins when the request was accepted, so that refusals keep their own status. From
then on there is at most one event of each picture waiting: a newer checkpoint takes the place of
an older one, and loses nothing: the bounds of one attempt never fall.
"""

import asyncio
import logging
from typing import Any

import orjson
from fastapi.sse import KEEPALIVE_COMMENT, format_sse_event
from pydantic import BaseModel, Field
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from service.core import Core
from service.errors import Kind, ServiceError
from service.forms import Cosine, Form, Length, Target
from service.mailbox import Mailbox
from service.rest import encode
from service.rest.errors import CLIENT_CLOSED, ENDED, STATUS, error_body
from service.rest.leaving import unless_client_leaves
from service.rest.schemas import EmbedResponse, ErrorResponse
from service.types import Accepted, Checkpoint, Drawn, EmbedRequest, Event, Stopped

_log = logging.getLogger(__name__)
_OK = 200


class SamplesSoFar(Form):
    """Samples of one picture."""

    selection: int
    estimation: int


class BoundSoFar(Form):
    """Certified already, together with everything else that this stream certifies."""

    radius: Length
    bound: Cosine = Field(description="lower bound on cos(embedding, F(x')); -1: none yet")


class CheckpointEvent(Form):
    """A look at one picture: what its samples certify so far.

    See docs/certificate.md, "Bounds so far".
    """

    index: int
    samples: SamplesSoFar = Field(description="drawn and looked at")
    bounds: list[BoundSoFar] = Field(
        description="they never fall, unless the picture starts over for want of memory"
    )
    target: Target | None
    reached: bool | None = Field(description="whether these bounds certify the target")
    stopped: Stopped | None = Field(description="why sampling ended here; null while it goes on")


class ProgressEvent(Form):
    """Samples of one picture; without a target nothing is certified before the last of them."""

    index: int
    samples: SamplesSoFar = Field(description="drawn")
    planned: SamplesSoFar


EVENTS: dict[str, type[BaseModel]] = {
    "checkpoint": CheckpointEvent,
    "progress": ProgressEvent,
    "result": EmbedResponse,
    "error": ErrorResponse,
}


class EventStream(Response):
    """The answer to one request, told while it is worked out.

    Args:
        core: does the work.
        request: not yet admitted.
        encoding_format: of the embeddings in the result.

    Raises:
        ServiceError: when sent, for what is refused before the work begins.
    """

    media_type = "text/event-stream"

    def __init__(self, core: Core, request: EmbedRequest, encoding_format: str) -> None:
        # No proxy may hold events back to send them together.
        super().__init__(headers={"cache-control": "no-store", "x-accel-buffering": "no"})
        del self.headers["content-length"]
        self._core = core
        self._request = request
        self._encoding_format = encoding_format
        self._news: Mailbox[int, Event] = Mailbox()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run the request; a client that leaves cancels it."""
        scope[ENDED] = CLIENT_CLOSED
        try:
            ended = await unless_client_leaves(receive, self._answer(send))
        except Exception:
            del scope[ENDED]  # refused before it began: the status is the error's own
            raise
        if ended is not None:
            scope[ENDED] = ended

    async def _answer(self, send: Send) -> int:
        """Send everything; the status the stream would have had, had it not begun before."""
        working = asyncio.create_task(self._work())
        working.add_done_callback(lambda _: self._news.close())
        try:
            if await self._news.get() is None:
                await working  # raises: nothing was accepted
            start = {"type": "http.response.start", "status": _OK, "headers": self.raw_headers}
            await send(start)
            await self._tell(send)
            last, status = await self._last(working)
            await send({"type": "http.response.body", "body": last, "more_body": False})
            return status
        finally:
            working.cancel()
            await asyncio.gather(working, return_exceptions=True)

    async def _work(self) -> bytes:
        result = await self._core.embed(self._request, listener=self._heard)
        return await asyncio.to_thread(self._result, result)

    def _result(self, result: Any) -> bytes:
        body = encode.embeddings(result, self._encoding_format)
        return format_sse_event(event="result", data_str=body.decode())

    def _heard(self, event: Event) -> None:
        self._news.put(-1 if isinstance(event, Accepted) else event.index, event)

    async def _tell(self, send: Send) -> None:
        """What happens until the work is done, and a sign of life where nothing does."""
        silence_s = self._core.settings.keep_alive_ms / 1000
        while True:
            chunk = KEEPALIVE_COMMENT
            try:
                async with asyncio.timeout(silence_s):
                    event = await self._news.get()
            except TimeoutError:
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
                continue
            if event is None:
                return
            if not isinstance(event, Accepted):
                chunk = _encoded(event)
                await send({"type": "http.response.body", "body": chunk, "more_body": True})

    async def _last(self, working: "asyncio.Task[bytes]") -> tuple[bytes, int]:
        """The result, or the error in its place."""
        try:
            return await working, _OK
        except ServiceError as error:
            failed = error
        except Exception:
            _log.exception("unexpected failure in a stream")
            failed = ServiceError(Kind.INTERNAL, "unexpected failure; see the log")
        self._core.metrics.rejections.labels(reason=failed.kind.value).inc()
        body = error_body(failed).decode()
        return format_sse_event(event="error", data_str=body), STATUS[failed.kind]


def _encoded(event: Checkpoint | Drawn) -> bytes:
    samples = {"selection": event.selection, "estimation": event.estimation}
    fields: dict[str, Any] = {"index": event.index, "samples": samples}
    if isinstance(event, Drawn):
        name = "progress"
        fields["planned"] = {
            "selection": event.planned_selection,
            "estimation": event.planned_estimation,
        }
    else:
        name = "checkpoint"
        fields |= {
            "bounds": event.bounds,
            "target": event.target,
            "reached": event.reached,
            "stopped": event.stopped,
        }
    return format_sse_event(event=name, data_str=orjson.dumps(fields).decode())
