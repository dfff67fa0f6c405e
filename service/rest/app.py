"""The FastAPI application over one core, and the counting of its requests."""

import time

from fastapi import FastAPI
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service import __version__
from service.core import Core
from service.metrics import Metrics
from service.rest import errors
from service.rest.errors import CLIENT_CLOSED, ENDED
from service.rest.routes import router


def create_app(core: Core) -> FastAPI:
    """All routes, with `/docs` and `/openapi.json`."""
    app = FastAPI(
        title="fcs-serve",
        version=__version__,
        description="Robust image embeddings, each with its certified bound.",
    )
    errors.install(app, core.metrics)
    app.include_router(router(core))
    app.add_middleware(_Counted, metrics=core.metrics)
    return app


class _Counted:
    """`fcs_requests_total` and `fcs_request_seconds`, labelled by route template and status.

    A stream has the status of how it ended.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
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
