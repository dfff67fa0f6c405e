"""What every gRPC call passes before its method: it is given an id."""

from typing import Any

from service.access.gate import Gate
from service.caller import REQUEST_ID, Caller, calling, request_id
from service.rpc.shared import Context, client_of
from service.rpc.wrapping import Behaviour, Wrapping


class Doorway(Wrapping):
    """The call's id, to whatever works on it and, as initial metadata, back to the client.

    Args:
        gate: knows whose key the call came with.
    """

    def __init__(self, gate: Gate) -> None:
        self._gate = gate

    def wrap(self, behaviour: Behaviour, method: str) -> Behaviour:
        """The method, with its caller at hand."""

        async def identified(messages: Any, context: Context) -> Any:
            given = dict(context.invocation_metadata() or ()).get(REQUEST_ID)
            id_ = request_id(given if isinstance(given, str) else None)
            await context.send_initial_metadata(((REQUEST_ID, id_),))
            with calling(Caller(id_, client_of(self._gate, context))):
                return await behaviour(messages, context)

        return identified
