"""`POST /embed/stream`: one request as server-sent events.

At most one event of each picture waits: a newer checkpoint takes the place of an older one, and
loses nothing: the bounds of one attempt never fall.
"""

import asyncio
from typing import Any

import orjson
from fastapi.sse import format_sse_event
from pydantic import BaseModel, Field

from service.core import Core
from service.errors import ServiceError
from service.forms import Cosine, Form, Length, Target
from service.rest import encode
from service.rest.errors import error_body
from service.rest.events import LiveResponse
from service.rest.schemas import EmbedResponse, ErrorResponse
from service.types import Accepted, Checkpoint, Drawn, EmbedRequest, Event, Stopped


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


class EventStream(LiveResponse):
    """The answer to one request, told while it is worked out.

    Args:
        core: does the work.
        request: not yet admitted.
        encoding_format: of the embeddings in the result.
    """

    def __init__(self, core: Core, request: EmbedRequest, encoding_format: str) -> None:
        super().__init__(core)
        self._request = request
        self._encoding_format = encoding_format

    async def work(self) -> bytes:
        """The whole request; its result."""
        result = await self.core.embed(self._request, listener=self._heard)
        return await asyncio.to_thread(self._result, result)

    def chunk(self, event: Checkpoint | Drawn) -> bytes:
        """A checkpoint, or a count of samples."""
        return _encoded(event)

    def failed(self, error: ServiceError) -> bytes:
        """The error as it is elsewhere."""
        return format_sse_event(event="error", data_str=error_body(error).decode())

    def _result(self, result: Any) -> bytes:
        body = encode.embeddings(result, self._encoding_format)
        return format_sse_event(event="result", data_str=body.decode())

    def _heard(self, event: Event) -> None:
        self.news.put(-1 if isinstance(event, Accepted) else event.index, event)


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
