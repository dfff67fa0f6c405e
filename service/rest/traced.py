"""The span of an HTTP request, in the trace that it came with; probes and scrapes have none."""

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service import tracing
from service.rest.access import is_probe, template
from service.rest.errors import ENDED


class Traced:
    """A server span, named by method and route template."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run the app inside its span."""
        if scope["type"] != "http" or not tracing.on() or is_probe(scope["path"]):
            await self._app(scope, receive, send)
            return
        method, status = scope["method"], None
        known = {
            "http.request.method": method,
            "url.scheme": scope["scheme"],
            "network.protocol.version": scope["http_version"],
        }

        async def sent(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        with tracing.serving(method, Headers(scope=scope), known) as span:
            try:
                await self._app(scope, receive, sent)
            except Exception:
                status = 500  # answered outside of this layer
                raise
            finally:
                route, ended = template(scope), scope.get(ENDED, status)
                span.update_name(f"{method} {route}")
                span.set_attribute("http.route", route)
                if ended is not None:
                    span.set_attribute("http.response.status_code", ended)
                    if ended >= 500:
                        tracing.failed(span, str(ended))
