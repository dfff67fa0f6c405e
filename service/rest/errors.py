"""Error kind -> HTTP status, once; every failure leaves in one form."""

import logging
import math

import orjson
from fastapi import FastAPI, Request
from fastapi.responses import Response
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.errors import Kind, ServiceError, shown
from service.metrics import Metrics

_log = logging.getLogger(__name__)

STATUS = {
    Kind.UNAUTHENTICATED: 401,
    Kind.INVALID: 422,
    Kind.MEDIA_TYPE: 415,
    Kind.TOO_LARGE: 413,
    Kind.NOT_FOUND: 404,
    Kind.METHOD: 405,
    Kind.RATE: 429,
    Kind.BUSY: 429,
    Kind.DEADLINE: 504,
    Kind.UNAVAILABLE: 503,
    Kind.INTERNAL: 500,
}
# Where a response that began with 200 and then went wrong leaves the status it deserves.
ENDED = "fcs.ended"
CLIENT_CLOSED = 499  # nobody reads it; it is what the request counter shows
_KIND = {status: kind for kind, status in STATUS.items()}


def error_body(error: ServiceError, status: int | None = None) -> bytes:
    """`{"error": {"type", "message", "param", "code"}}`, one line of JSON.

    Args:
        error: to be told.
        status: where it is not the one of its kind.
    """
    fields = {
        "type": error.kind.value,
        "message": error.message,
        "param": error.param,
        "code": status or STATUS[error.kind],
    }
    return orjson.dumps({"error": fields})


def error_response(error: ServiceError, status: int | None = None) -> Response:
    """The error's body with its status, or another."""
    headers = {}
    if error.retry_after_s is not None:
        headers["Retry-After"] = str(math.ceil(error.retry_after_s))
    if error.kind is Kind.UNAUTHENTICATED:
        headers["WWW-Authenticate"] = "Bearer"
    body = error_body(error, status)
    return Response(body, status or STATUS[error.kind], headers, "application/json")


def install(app: FastAPI, metrics: Metrics) -> None:
    """Give every failure of the app that form, those of the framework included."""

    @app.exception_handler(ServiceError)
    async def service_error(_: Request, error: ServiceError) -> Response:
        metrics.rejections.labels(reason=error.kind.value).inc()
        return error_response(error)

    @app.exception_handler(ClientDisconnect)
    async def client_left(_: Request, error: ClientDisconnect) -> Response:
        return Response(status_code=CLIENT_CLOSED)

    @app.exception_handler(HTTPException)
    async def http_error(request: Request, error: HTTPException) -> Response:
        kind = _KIND.get(error.status_code, Kind.INVALID)
        message = f"{error.detail}: {request.method} {shown(request.url.path)}"
        response = error_response(ServiceError(kind, message))
        response.headers.update(error.headers or {})
        return response


class Mended:
    """Answers what no handler knows: inside of all that counts, logs and names a request.

    Starlette would answer it outside of them, and raise it again.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run the app; an unexpected failure is logged once, and told where nothing was yet."""
        begun = False

        async def sent(message: Message) -> None:
            nonlocal begun
            begun = True
            await send(message)

        try:
            await self._app(scope, receive, sent)
        except Exception:
            _log.exception("unexpected failure in a REST handler")
            scope[ENDED] = STATUS[Kind.INTERNAL]
            if begun:
                raise
            error = ServiceError(Kind.INTERNAL, "unexpected failure; see the log")
            await error_response(error)(scope, receive, send)
