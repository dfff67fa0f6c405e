"""One line in the log for each gRPC call, and one for each request of a stream.

Health checks and reflection are not told of.
"""

import logging
import time
from typing import Any

from service import caller
from service.rpc.shared import CANCELLED, Context
from service.rpc.wrapping import Behaviour, Wrapping, status
from service.usage import Usage, counting

_log = logging.getLogger("service.access")


class Logged(Wrapping):
    """Writes the line when the call has ended."""

    def wrap(self, behaviour: Behaviour, method: str) -> Behaviour:
        """The method, told of."""

        async def logged(messages: Any, context: Context) -> Any:
            began, usage, code = time.monotonic(), Usage(lambda: method), CANCELLED
            answered = None
            try:
                with counting(usage):
                    answer = await behaviour(messages, context)
                code = "OK"
                answered = None if answer is None else answer.ByteSize()
                return answer
            except Exception:
                code = status(context).name
                raise
            finally:
                tell(code, began, usage, answered)

        return logged


def tell(
    code: str,
    began: float,
    usage: Usage,
    bytes_out: int | None = None,
) -> None:
    """Write the line of a call, or of one request of a stream, that began then, monotonic."""
    asking, route = caller.present(), usage.route()
    fields = {
        "client": None if asking is None else asking.client,
        "method": "gRPC",
        "route": route,
        "status": code,
        "ms": round(1000 * (time.monotonic() - began), 1),
        "samples": usage.samples or None,
        "bytes_in": usage.received,
        "bytes_out": bytes_out,
    }
    _log.info("gRPC %s %s", route, code, extra=fields)
