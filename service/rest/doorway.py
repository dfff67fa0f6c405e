"""What every HTTP request passes before its route: it is given an id, and is counted."""

import time

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.access.gate import Gate
from service.caller import REQUEST_ID, Caller, calling, request_id
from service.metrics import Metrics
from service.rest.errors import CLIENT_CLOSED, ENDED


class Identified:
    """The request's id, to whatever works on it and back to the client; and whose key it has."""

    def __init__(self, app: ASGIApp, gate: Gate) -> None:
        self._app = app
        self._gate = gate

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run the app with the id at hand."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        client = self._gate.client_of(headers.get("authorization"), headers.get("x-api-key"))
        caller = Caller(request_id(headers.get(REQUEST_ID)), client)

        async def identified(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message)[REQUEST_ID] = caller.request_id
            await send(message)

        with calling(caller):
            await self._app(scope, receive, identified)


class Counted:
    """`fcs_requests_total` and `fcs_request_seconds`, labelled by route template and status.

    A stream has the status of how it ended.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run the app, and count how it ended."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began = time.monotonic()
        status = CLIENT_CLOSED

        async def counted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, counted)
        except Exception:
            status = 500  # answered outside of this layer
            raise
        finally:
            route = getattr(scope.get("route"), "path", "unmatched")
            self._metrics.requests.labels(route=route, code=str(scope.get(ENDED, status))).inc()
            self._metrics.request_seconds.labels(route=route).observe(time.monotonic() - began)
