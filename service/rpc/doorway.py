"""What every gRPC call passes before its method: it is given an id."""

from collections.abc import Awaitable, Callable
from typing import Any

import grpc

from service.access.gate import Gate
from service.caller import REQUEST_ID, Caller, calling, request_id
from service.rpc.shared import Context, client_of

_OURS = "/fcs.v1.Fcs/"
_KINDS = ("unary_unary", "unary_stream", "stream_unary", "stream_stream")
Behaviour = Callable[[Any, Context], Awaitable[Any]]


class Doorway(grpc.aio.ServerInterceptor):
    """The call's id, to whatever works on it and, as initial metadata, back to the client.

    Args:
        gate: knows whose key the call came with.
    """

    def __init__(self, gate: Gate) -> None:
        self._gate = gate

    async def intercept_service(self, continuation: Any, details: Any) -> Any:
        """Wrap the methods of our own service; health and reflection pass as they are."""
        handler = await continuation(details)
        if handler is None or not details.method.startswith(_OURS):
            return handler
        for kind in _KINDS:
            if (behaviour := getattr(handler, kind)) is not None:
                return handler._replace(**{kind: _identified(behaviour, self._gate)})
        return handler


def _identified(behaviour: Behaviour, gate: Gate) -> Behaviour:
    async def wrapped(messages: Any, context: Context) -> Any:
        given = dict(context.invocation_metadata() or ()).get(REQUEST_ID)
        id_ = request_id(given if isinstance(given, str) else None)
        caller = Caller(id_, client_of(gate, context))
        await context.send_initial_metadata(((REQUEST_ID, caller.request_id),))
        with calling(caller):
            return await behaviour(messages, context)

    return wrapped
