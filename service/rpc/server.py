"""The gRPC server: the service, standard health, reflection, and limits that match the pictures."""

import asyncio
from contextlib import suppress

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from service.core import Core
from service.errors import ConfigurationError
from service.rpc.access import Logged
from service.rpc.doorway import Doorway
from service.rpc.generated import fcs_pb2
from service.rpc.servicer import FcsServicer, handlers
from service.rpc.traced import Traced

_SERVICE = fcs_pb2.DESCRIPTOR.services_by_name["Fcs"].full_name
_HEALTH_POLL_S = 0.1


class RpcServer:
    """One gRPC server on the running event loop.

    Args:
        core: the only thing its methods call.
        address: `host:port`; port 0 lets the system choose.

    Raises:
        ConfigurationError: the address cannot be bound.
    """

    def __init__(self, core: Core, address: str) -> None:
        self._core = core
        # The servicer refuses what is over the limit with the right status; the library, whose
        # status would say "try again", only what is far over it.
        limit = 2 * core.settings.max_body_bytes
        self._server = grpc.aio.server(
            interceptors=[Doorway(), Traced(), Logged()],
            options=[
                ("grpc.max_receive_message_length", limit),
                ("grpc.max_send_message_length", -1),
                ("grpc.so_reuseport", 0),  # a second server on the port must fail, not share it
            ],
        )
        self._server.add_generic_rpc_handlers((handlers(FcsServicer(core)),))
        self._health = health.aio.HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        reflection.enable_server_reflection(
            (_SERVICE, health.SERVICE_NAME, reflection.SERVICE_NAME), self._server
        )
        try:
            self.port = self._server.add_insecure_port(address)
        except RuntimeError as error:
            raise ConfigurationError(f"cannot listen for gRPC on {address}: {error}") from error
        self._watch: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Accept calls; health follows the core's readiness from here on."""
        await self._set_health(self._core.health().ready)
        await self._server.start()
        self._watch = asyncio.create_task(self._follow_health())

    async def stop(self, grace_s: float) -> None:
        """Refuse new calls; running ones have `grace_s` to end."""
        if self._watch is not None:
            self._watch.cancel()
            with suppress(asyncio.CancelledError):
                await self._watch
        await self._set_health(False)
        await self._server.stop(grace_s)

    async def _follow_health(self) -> None:
        known = self._core.health().ready
        while True:
            await asyncio.sleep(_HEALTH_POLL_S)
            ready = self._core.health().ready
            if ready is not known:
                await self._set_health(ready)
                known = ready

    async def _set_health(self, ready: bool) -> None:
        serving = health_pb2.HealthCheckResponse.SERVING
        status = serving if ready else health_pb2.HealthCheckResponse.NOT_SERVING
        for service in ("", _SERVICE):
            await self._health.set(service, status)
