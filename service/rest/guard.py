"""Every HTTP request passes the gate before its body is read; health asks for nothing."""

from contextlib import ExitStack

from starlette.types import ASGIApp, Receive, Scope, Send

from service.access.gate import Gate
from service.caller import present
from service.errors import ServiceError, invalid
from service.metrics import Metrics
from service.rest.errors import error_response

_HEALTH = "/health"
_METRICS = "/metrics"  # wants a key, but must answer when all places are taken


class Guard:
    """Stands before the routes.

    Args:
        app: the routes.
        gate: decides.
        metrics: counts refusals.
    """

    def __init__(self, app: ASGIApp, gate: Gate, metrics: Metrics) -> None:
        self._app, self._gate, self._metrics = app, gate, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run the app within the request's place, or tell why not."""
        if scope["type"] == "http" and _framed_twice(scope):
            await self._refuse_framing(scope, receive, send)
            return
        path = scope.get("path", "")
        if scope["type"] != "http" or path == _HEALTH or path.startswith(_HEALTH + "/"):
            await self._app(scope, receive, send)
            return
        caller = present()
        client = None if caller is None else caller.client
        with ExitStack() as held:
            try:
                if path == _METRICS:
                    self._gate.check(client)
                else:
                    held.enter_context(self._gate.request(client))
            except ServiceError as error:
                self._metrics.rejections.labels(reason=error.kind.value).inc()
                await error_response(error)(scope, receive, send)
            else:
                await self._app(scope, receive, send)

    async def _refuse_framing(self, scope: Scope, receive: Receive, send: Send) -> None:
        """A proxy may have taken the other length: nothing more is read (RFC 9112, 6.1)."""
        error = invalid("both Content-Length and Transfer-Encoding: send one of them")
        self._metrics.rejections.labels(reason=error.kind.value).inc()
        response = error_response(error, 400)
        response.headers["connection"] = "close"
        await response(scope, receive, send)


def _framed_twice(scope: Scope) -> bool:
    names = {name for name, _ in scope["headers"]}
    return {b"content-length", b"transfer-encoding"} <= names
