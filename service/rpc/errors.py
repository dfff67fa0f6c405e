"""Error kind -> gRPC status, once."""

from typing import Any, NoReturn

import grpc
from grpc.aio import ServicerContext

from service.errors import Kind, ServiceError

MAX_MESSAGE = 2000  # characters: a status travels in a header
STATUS = {
    Kind.UNAUTHENTICATED: grpc.StatusCode.UNAUTHENTICATED,
    Kind.INVALID: grpc.StatusCode.INVALID_ARGUMENT,
    Kind.MEDIA_TYPE: grpc.StatusCode.INVALID_ARGUMENT,
    Kind.TOO_LARGE: grpc.StatusCode.INVALID_ARGUMENT,
    Kind.NOT_FOUND: grpc.StatusCode.NOT_FOUND,
    Kind.METHOD: grpc.StatusCode.UNIMPLEMENTED,
    Kind.RATE: grpc.StatusCode.RESOURCE_EXHAUSTED,
    Kind.BUSY: grpc.StatusCode.RESOURCE_EXHAUSTED,
    Kind.DEADLINE: grpc.StatusCode.DEADLINE_EXCEEDED,
    Kind.UNAVAILABLE: grpc.StatusCode.UNAVAILABLE,
    Kind.INTERNAL: grpc.StatusCode.INTERNAL,
}


async def abort(context: "ServicerContext[Any, Any]", error: ServiceError) -> NoReturn:
    """End the call with the error's status; the field at fault and the delay travel as trailers."""
    trailers: list[tuple[str, str | bytes]] = []
    if error.param is not None:
        trailers.append(("fcs-param", error.param))
    if error.retry_after_s is not None:
        trailers.append(("retry-after-ms", str(round(1000 * error.retry_after_s))))
    await context.abort(STATUS[error.kind], error.message[:MAX_MESSAGE], tuple(trailers))
    raise AssertionError("abort always raises")
