"""A listening socket of HTTP on the running event loop, ended by whoever began it."""

import asyncio
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import uvicorn
from starlette.types import ASGIApp

from service.config import Settings
from service.errors import ConfigurationError
from service.rest.connection import Bounds, Connection
from service.tls import LiveContext, Tls

_BACKLOG = 2048
_KEEP_ALIVE_S = 5  # between two requests of a connection
_HALF_OPEN_S = 60  # of silence, after which the system asks whether the peer is still there


class Listener(uvicorn.Server):
    """One listener, without signal handling of its own.

    Args:
        app: answers.
        sock: bound and listening.
        settings: its bounds.
        grace_s: for running requests when it is stopped.
        tls: None: plain.
    """

    def __init__(
        self,
        app: ASGIApp,
        sock: socket.socket,
        settings: Settings,
        grace_s: float,
        tls: Tls | None = None,
    ) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                log_config=None,
                access_log=False,
                server_header=False,
                lifespan="off",
                ws="none",
                timeout_keep_alive=_KEEP_ALIVE_S,
                timeout_graceful_shutdown=int(grace_s),  # a stalled client must not hold the end
            )
        )
        self._sock = sock
        self._tls = tls
        self._handshake_s = settings.head_timeout_ms / 1000
        self._bounds = Bounds(
            head_s=settings.head_timeout_ms / 1000,
            stall_s=settings.body_timeout_ms / 1000,
            connections=settings.max_connections,
        )

    @property
    def port(self) -> int:
        """It listens on."""
        port: int = self._sock.getsockname()[1]
        return port

    async def run_here(self) -> None:
        """Serve until `should_exit` is set."""
        await self.serve(sockets=[self._sock])

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """As uvicorn's, with connections of ours."""
        made = partial(
            Connection,
            self._bounds,
            config=self.config,
            server_state=self.server_state,
            app_state=self.lifespan.state,
        )
        loop = asyncio.get_running_loop()
        if self._tls is None:
            server = await loop.create_server(made, sock=self._sock, backlog=_BACKLOG)
        else:
            server = await loop.create_server(
                made,
                sock=self._sock,
                backlog=_BACKLOG,
                ssl=LiveContext.of(self._tls),
                ssl_handshake_timeout=self._handshake_s,
            )
        self.servers = [server]
        self.started = True

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """One place decides when the process ends, and it is not this one."""
        yield


def bind(host: str, port: int) -> socket.socket:
    """A socket that listens.

    Raises:
        ConfigurationError: it cannot.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    # Inherited by every connection: a peer that vanished is noticed.
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    if hasattr(socket, "TCP_KEEPIDLE"):
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, _HALF_OPEN_S)
    try:
        listener.bind((host, port))
        listener.listen(_BACKLOG)  # now: two processes can bind one port, but not both listen
    except OSError as error:
        listener.close()
        raise ConfigurationError(f"cannot listen for REST on {host}:{port}: {error}") from error
    return listener
