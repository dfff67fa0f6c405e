"""One line in the log for each HTTP request: what was asked, how it ended, what it took.

By route template, never by path; probes and scrapes are told at debug level alone.
"""

import logging
import time

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service import caller
from service.rest.errors import CLIENT_CLOSED, ENDED
from service.usage import Usage, counting

_log = logging.getLogger("service.access")


class Logged:
    """Writes the line when the request has ended; a stream has the status of how it ended."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run the app, and tell how it ended."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began, status, client = time.monotonic(), CLIENT_CLOSED, None
        bytes_in = bytes_out = 0
        usage = Usage(lambda: template(scope))

        async def received() -> Message:
            nonlocal bytes_in
            message = await receive()
            bytes_in += len(message.get("body", b""))
            return message

        async def sent(message: Message) -> None:
            nonlocal status, bytes_out, client
            if message["type"] == "http.response.start":
                status = message["status"]
                # Here, as whoever knows the client's name stands further inside.
                client = None if (asking := caller.present()) is None else asking.client
            await send(message)
            bytes_out += len(message.get("body", b""))

        try:
            with counting(usage):
                await self._app(scope, received, sent)
        except Exception:
            status = 500  # answered outside of this layer
            raise
        finally:
            status, route, ms = scope.get(ENDED, status), template(scope), _ms_since(began)
            fields = {
                "client": client,
                "method": scope["method"],
                "route": route,
                "status": status,
                "ms": ms,
                "samples": usage.samples or None,
                "bytes_in": bytes_in,
                "bytes_out": bytes_out,
            }
            level = logging.DEBUG if is_probe(route) else logging.INFO
            _log.log(level, "%s %s %s", scope["method"], route, status, extra=fields)


def template(scope: Scope) -> str:
    """The route, as in the metrics."""
    path: str = getattr(scope.get("route"), "path", "unmatched")
    return path


def is_probe(route: str) -> bool:
    """Asked by machines every few seconds."""
    return route == "/metrics" or route.startswith("/health")


def _ms_since(began: float) -> float:
    return round(1000 * (time.monotonic() - began), 1)
