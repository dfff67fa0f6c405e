"""Server-sent events of one request, for readers of any speed.

The response begins when the request was accepted, so that refusals keep their own status. What
happens is kept in a mailbox until it is read; a client that leaves cancels the work.
"""

import asyncio
import logging
from abc import ABC, abstractmethod
from typing import Any

from fastapi.sse import KEEPALIVE_COMMENT
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from service.core import Core
from service.errors import Kind, ServiceError
from service.mailbox import Mailbox
from service.rest.errors import CLIENT_CLOSED, ENDED, STATUS
from service.rest.leaving import unless_client_leaves
from service.types import Accepted

_log = logging.getLogger(__name__)
_OK = 200


class LiveResponse(Response, ABC):
    """The answer to one request, told while it is worked out.

    Args:
        core: does the work.

    Attributes:
        news: what happened; `Accepted` first, then whatever `chunk` can write.

    Raises:
        ServiceError: when sent, for what is refused before the work begins.
    """

    media_type = "text/event-stream"

    def __init__(self, core: Core) -> None:
        # No proxy may hold events back to send them together.
        super().__init__(headers={"cache-control": "no-store", "x-accel-buffering": "no"})
        del self.headers["content-length"]
        self.core = core
        self.news: Mailbox[int, Any] = Mailbox()

    @abstractmethod
    async def work(self) -> bytes:
        """Do the work; the last events of a success."""

    @abstractmethod
    def chunk(self, event: Any) -> bytes:
        """What is sent of one of the news."""

    @abstractmethod
    def failed(self, error: ServiceError) -> bytes:
        """The last event of a failure."""

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
        working = asyncio.create_task(self.work())
        working.add_done_callback(lambda _: self.news.close())
        try:
            if await self.news.get() is None:
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

    async def _tell(self, send: Send) -> None:
        """What happens until the work is done, and a sign of life where nothing does."""
        silence_s = self.core.settings.keep_alive_ms / 1000
        while True:
            chunk = KEEPALIVE_COMMENT
            try:
                async with asyncio.timeout(silence_s):
                    event = await self.news.get()
            except TimeoutError:
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
                continue
            if event is None:
                return
            if not isinstance(event, Accepted):
                chunk = self.chunk(event)
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
        self.core.metrics.rejections.labels(reason=failed.kind.value).inc()
        return self.failed(failed), STATUS[failed.kind]
