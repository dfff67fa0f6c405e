"""Every HTTP request passes the gate before its body is read; health asks for nothing."""

from contextlib import ExitStack

from starlette.types import ASGIApp, Receive, Scope, Send

from service.access.gate import Gate
from service.caller import present
from service.errors import ServiceError
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
