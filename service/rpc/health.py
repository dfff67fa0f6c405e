"""Standard health, read from the core whenever it is asked for.

The library's own servicer is told, and one watcher that takes nothing holds that up for everybody.
"""

import asyncio

import grpc
from grpc_health.v1 import health_pb2 as pb
from grpc_health.v1 import health_pb2_grpc

from service.core import Core
from service.errors import Kind, ServiceError
from service.rpc.errors import abort
from service.rpc.shared import Context, write

_POLL_S = 0.1


class Health(health_pb2_grpc.HealthServicer):  # type: ignore[misc]  # it has no types
    """`grpc.health.v1.Health` over one core.

    A watcher is asked for no key and holds its connection as long as it likes: they are few, so
    that there are places for others.

    Args:
        core: whose readiness is told.
        services: names that are known; the empty one is the server.
        most_watchers: at a time.
    """

    def __init__(self, core: Core, services: frozenset[str], most_watchers: int) -> None:
        self._core, self._services = core, services
        self._left = self._most = most_watchers

    async def Check(  # noqa: N802 - the protocol's name
        self, request: pb.HealthCheckRequest, context: Context
    ) -> pb.HealthCheckResponse:
        """The present status."""
        status = self._status(request.service)
        if status == pb.HealthCheckResponse.SERVICE_UNKNOWN:
            await context.abort(grpc.StatusCode.NOT_FOUND, "unknown service")
        return pb.HealthCheckResponse(status=status)

    async def Watch(  # noqa: N802 - the protocol's name
        self, request: pb.HealthCheckRequest, context: Context
    ) -> None:
        """The present status, and each one that follows; to a client that takes them."""
        if not self._left:
            await abort(context, ServiceError(Kind.BUSY, f"{self._most} watch already: use Check"))
        self._left -= 1
        try:
            known, patience_s = None, self._core.settings.body_timeout_ms / 1000
            while True:
                if (status := self._status(request.service)) != known:
                    await write(context, pb.HealthCheckResponse(status=status), patience_s)
                    known = status
                await asyncio.sleep(_POLL_S)
        except ServiceError as error:
            await abort(context, error)
        finally:
            self._left += 1

    def _status(self, service: str) -> pb.HealthCheckResponse.ServingStatus:
        if service not in self._services:
            return pb.HealthCheckResponse.SERVICE_UNKNOWN
        ready = self._core.health().ready
        return pb.HealthCheckResponse.SERVING if ready else pb.HealthCheckResponse.NOT_SERVING
