"""The gRPC server: the service, standard health, reflection, and limits that match the pictures."""

import asyncio
import logging
from contextlib import suppress

import grpc
from grpc_health.v1 import health_pb2_grpc
from grpc_health.v1.health import SERVICE_NAME as HEALTH
from grpc_reflection.v1alpha import reflection

from service.core import Core
from service.errors import ConfigurationError
from service.rpc.access import Logged
from service.rpc.doorway import Doorway
from service.rpc.generated import fcs_pb2
from service.rpc.guard import Guard
from service.rpc.health import Health
from service.rpc.servicer import FcsServicer, handlers
from service.rpc.traced import Traced
from service.tls import Credentials, Tls

_SERVICE = fcs_pb2.DESCRIPTOR.services_by_name["Fcs"].full_name
_LISTENING_POLL_S = 0.5
_SPARE_STREAMS = 16
_WATCHERS = 4  # of so many connections one may watch the health
_log = logging.getLogger(__name__)
_MINUTE_MS = 60_000


class RpcServer:
    """One gRPC server on the running event loop.

    Args:
        core: the only thing its methods call.
        address: `host:port`; port 0 lets the system choose.
        tls: None: plain.

    Raises:
        ConfigurationError: the address cannot be bound.
    """

    def __init__(self, core: Core, address: str, tls: Tls | None = None) -> None:
        self._core, self._tls = core, tls
        self._host = address.rpartition(":")[0]
        self._server, self.port = self._bound(address)
        self._watch: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Accept calls."""
        await self._server.start()
        self._watch = asyncio.create_task(self._follow())

    async def stop(self, grace_s: float) -> None:
        """Refuse new calls; running ones have `grace_s` to end."""
        if self._watch is not None:
            self._watch.cancel()
            with suppress(asyncio.CancelledError):
                await self._watch
        await self._server.stop(grace_s)

    def _bound(self, address: str) -> tuple[grpc.aio.Server, int]:
        """A server, and the port that it has taken."""
        core = self._core
        # The servicer refuses what is over the limit with the right status; the library, whose
        # status would say "try again", only what is far over it.
        limit = 2 * core.settings.max_body_bytes
        server = grpc.aio.server(
            interceptors=[Doorway(core.gate), Traced(), Logged(), Guard(core)],
            options=[
                ("grpc.max_receive_message_length", limit),
                ("grpc.max_send_message_length", -1),
                ("grpc.so_reuseport", 0),  # a second server on the port must fail, not share it
                ("grpc.max_allowed_incoming_connections", core.settings.max_connections),
                # More than the gate lets in: who is over it is told so, and does not wait unheard.
                ("grpc.max_concurrent_streams", 2 * core.settings.max_requests + _SPARE_STREAMS),
                ("grpc.server_handshake_timeout_ms", core.settings.head_timeout_ms),
                # Without calls a connection ends; with them it is asked whether it is still there.
                ("grpc.max_connection_idle_ms", _MINUTE_MS),
                ("grpc.keepalive_time_ms", _MINUTE_MS),
                ("grpc.keepalive_timeout_ms", _MINUTE_MS // 3),
                # New connections find new replicas; calls of the old one end in their own time.
                ("grpc.max_connection_age_ms", 30 * _MINUTE_MS),
                # Clients may ask as often themselves, and no oftener.
                ("grpc.http2.min_ping_interval_without_data_ms", _MINUTE_MS // 6),
            ],
        )
        server.add_generic_rpc_handlers((handlers(FcsServicer(core)),))
        watchers = core.settings.max_connections // _WATCHERS
        told = Health(core, frozenset({"", _SERVICE}), max(watchers, 1))
        health_pb2_grpc.add_HealthServicer_to_server(told, server)
        reflection.enable_server_reflection((_SERVICE, HEALTH, reflection.SERVICE_NAME), server)
        try:
            if self._tls is None:
                port = server.add_insecure_port(address)
            else:
                port = server.add_secure_port(address, _credentials(self._tls))
        except RuntimeError as error:
            raise ConfigurationError(f"cannot listen for gRPC on {address}: {error}") from error
        return server, port

    async def _follow(self) -> None:
        """Keep the door open."""
        while True:
            await asyncio.sleep(_LISTENING_POLL_S)
            if not await self._listens():
                await self._open_again()

    async def _listens(self) -> bool:
        """Whether anybody does, on our port: the library ends its loop on a malformed path.

        Its own `wait_for_termination` does not tell (grpcio 1.85: a `:path` that is not UTF-8).
        """
        try:
            async with asyncio.timeout(_LISTENING_POLL_S):
                _, writer = await asyncio.open_connection(self._host.strip("[]"), self.port)
        except TimeoutError:
            return True  # somebody is slow to accept
        except OSError:
            return False
        writer.close()
        return True

    async def _open_again(self) -> None:
        _log.error("the gRPC door had closed by itself; it is opened again")
        self._core.metrics.grpc_restarts.inc()
        try:
            await self._server.stop(0)
            self._server, _ = self._bound(f"{self._host}:{self.port}")
            await self._server.start()
        except Exception:  # whatever it is, the watch goes on, and it is tried again
            _log.exception("the gRPC door cannot be opened")


def _credentials(tls: Tls) -> grpc.ServerCredentials:
    """Asked for before each handshake, on threads of the library."""
    known = tls.current()

    def configuration(one: Credentials) -> grpc.ServerCertificateConfiguration:
        pair = [(one.key, one.certificate)]
        return grpc.ssl_server_certificate_configuration(pair, one.client_ca)

    def newest() -> grpc.ServerCertificateConfiguration | None:
        nonlocal known
        now = tls.current()
        if now is known:
            return None
        known = now
        return configuration(now)

    return grpc.dynamic_ssl_server_credentials(
        configuration(known),
        newest,  # type: ignore[arg-type]  # None: as before, which the stubs do not know
        require_client_authentication=known.client_ca is not None,
    )
