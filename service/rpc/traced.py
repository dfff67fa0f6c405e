"""The span of a gRPC call, in the trace that it came with; health and reflection have none."""

from typing import Any

import grpc

from service import tracing
from service.rpc.shared import Context
from service.rpc.wrapping import Behaviour, Wrapping, status

# What is the server's own fault, as the conventions of OpenTelemetry have it.
_OURS = {
    grpc.StatusCode.UNKNOWN,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.UNIMPLEMENTED,
    grpc.StatusCode.INTERNAL,
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.DATA_LOSS,
}


class Traced(Wrapping):
    """A server span, named by the method."""

    def wrap(self, behaviour: Behaviour, method: str) -> Behaviour:
        """The method, inside its span."""
        name = method.removeprefix("/")

        async def traced(messages: Any, context: Context) -> Any:
            if not tracing.on():
                return await behaviour(messages, context)
            given = dict(context.invocation_metadata() or ())
            headers = {key: value for key, value in given.items() if isinstance(value, str)}
            known = {"rpc.system.name": "grpc", "rpc.method": name}
            with tracing.serving(name, headers, known) as span:
                code = grpc.StatusCode.CANCELLED
                try:
                    answer = await behaviour(messages, context)
                    code = grpc.StatusCode.OK
                    return answer
                except Exception:
                    code = status(context)
                    raise
                finally:
                    span.set_attribute("rpc.response.status_code", code.name)
                    if code in _OURS:
                        tracing.failed(span, code.name)

        return traced
