"""Interceptors that put something around every method of our own service."""

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from typing import Any

import grpc

from service.rpc.shared import Context

_OURS = "/fcs.v1.Fcs/"
_KINDS = ("unary_unary", "unary_stream", "stream_unary", "stream_stream")
Behaviour = Callable[[Any, Context], Awaitable[Any]]


class Wrapping(grpc.aio.ServerInterceptor, ABC):
    """Health and reflection pass as they are."""

    async def intercept_service(self, continuation: Any, details: Any) -> Any:
        """Wrap the method, if it is ours."""
        handler = await continuation(details)
        if handler is None or not details.method.startswith(_OURS):
            return handler
        for kind in _KINDS:
            if (behaviour := getattr(handler, kind)) is not None:
                return handler._replace(**{kind: self.wrap(behaviour, details.method)})
        return handler

    @abstractmethod
    def wrap(self, behaviour: Behaviour, method: str) -> Behaviour:
        """The behaviour of a method, and what is put around it."""


def status(context: Context) -> grpc.StatusCode:
    """How a call that raised has ended."""
    told = context.code()
    codes = [code for code in grpc.StatusCode if told in (code, code.value[0])]
    return codes[0] if codes else grpc.StatusCode.UNKNOWN
