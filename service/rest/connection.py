"""One HTTP connection: what uvicorn does, and the time limits that it lacks.

A head that does not come, an answer that is not taken and a refused body that goes on end the
connection, and so does the need of a place for a newer one while this one is idle.
"""

import asyncio
import logging
from contextvars import Context
from dataclasses import dataclass
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from service.errors import Kind, ServiceError
from service.rest.errors import error_body

_log = logging.getLogger(__name__)
_HEAD_KIB = 16  # of h11
_PHRASE = {400: b"Bad Request", 408: b"Request Timeout"}


@dataclass(frozen=True, slots=True)
class Bounds:
    """Of the connections of one listener.

    Attributes:
        head_s: for a request's head, from the connection or from its first byte on.
        stall_s: for a client to take more of its answer.
        connections: over it the one that was idle longest is closed.
    """

    head_s: float
    stall_s: float
    connections: int


class Connection(H11Protocol):
    """Made by the server for each connection.

    Args:
        bounds: of this listener.
        options: uvicorn's own.
    """

    def __init__(self, bounds: Bounds, **options: Any) -> None:
        super().__init__(**options)
        self._bounds = bounds
        self._head: asyncio.TimerHandle | None = None
        self._stall: asyncio.TimerHandle | None = None
        self._idle_since = self.loop.time()

    @property
    def idle(self) -> bool:
        """No request of it is in work."""
        return self.cycle is None or self.cycle.response_complete

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A new connection waits for its first head."""
        super().connection_made(transport)
        self._arm()
        if len(self.connections) > self._bounds.connections:
            self._make_room()

    def connection_lost(self, exc: Exception | None) -> None:
        """Nothing is waited for any more."""
        self._disarm()
        self.resume_writing()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Bytes of a head, of a body, or of a body that nobody wants: only the second may last."""
        super().data_received(data)
        if self.idle:
            self._arm()
        else:
            self._disarm()

    def handle_events(self) -> None:
        """A request that comes behind another begins in a context of its own, not in that one's."""
        Context().run(super().handle_events)

    def on_response_complete(self) -> None:
        """Idle from here on."""
        self._idle_since = self.loop.time()
        super().on_response_complete()

    def pause_writing(self) -> None:
        """The client takes less than it is sent."""
        super().pause_writing()
        if self._stall is None:
            self._stall = self.loop.call_later(self._bounds.stall_s, self.transport.abort)

    def resume_writing(self) -> None:
        """It took what there was."""
        super().resume_writing()
        if self._stall is not None:
            self._stall.cancel()
            self._stall = None

    def timeout_keep_alive_handler(self) -> None:
        """A connection that is idle for long is closed, whether or not its answer was taken."""
        if self.transport.get_write_buffer_size():
            self.transport.abort()  # a close would wait for the client
        else:
            super().timeout_keep_alive_handler()

    def send_400_response(self, msg: str) -> None:
        """As every other failure is told."""
        reason = f"{msg.rstrip('.')}, or its head is larger than {_HEAD_KIB} KiB"
        self._refuse(400, ServiceError(Kind.INVALID, reason))

    def _arm(self) -> None:
        if self._head is None:
            self._head = self.loop.call_later(self._bounds.head_s, self._too_slow)

    def _disarm(self) -> None:
        if self._head is not None:
            self._head.cancel()
            self._head = None

    def _too_slow(self) -> None:
        self._head = None
        message = f"no complete request within {self._bounds.head_s:g} seconds"
        self._refuse(408, ServiceError(Kind.DEADLINE, message))
        self.transport.abort()  # whether or not it was taken

    def _refuse(self, status: int, error: ServiceError) -> None:
        """Answer what never became a request, where an answer is still due, and close."""
        if self.conn.our_state in {h11.IDLE, h11.SEND_RESPONSE}:
            body = error_body(error, status)
            headers = [
                (b"content-type", b"application/json"),
                (b"content-length", str(len(body)).encode()),
                (b"connection", b"close"),
            ]
            start = h11.Response(status_code=status, headers=headers, reason=_PHRASE[status])
            for event in (start, h11.Data(data=body), h11.EndOfMessage()):
                self.transport.write(self.conn.send(event) or b"")
        self.transport.close()

    def _make_room(self) -> None:
        """The longest idle goes; where all others are at work, this one.

        Those that are to go already are none of them: a crowd may come in one turn of the loop.
        """
        there = [one for one in self.connections if not one.transport.is_closing()]
        if len(there) <= self._bounds.connections:
            return
        idle = [one for one in there if isinstance(one, Connection) and one.idle]
        min(idle, key=lambda one: one._idle_since).transport.abort()
