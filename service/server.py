"""One process: bind both doors, load the model behind them, serve until a signal, drain, end.

Liveness answers from the first moment, readiness once the model is warm. SIGTERM and SIGINT drain:
new work is refused, accepted work is answered (bounded by `drain_ms`). A second one ends at once.
"""

import asyncio
import logging
import os
import signal
import socket
from collections.abc import Callable
from typing import TYPE_CHECKING

from service import __version__
from service.audit.log import open_log
from service.config import Settings
from service.control import ControlServer
from service.core import Core
from service.errors import ConfigurationError
from service.http_server import HttpServer
from service.metrics import Metrics
from service.receipts.signing import load_signer
from service.rest.app import create_app
from service.rpc.server import RpcServer

if TYPE_CHECKING:
    from service.telemetry import Telemetry

_log = logging.getLogger(__name__)
_GRACE_S = 5.0
_BACKLOG = 2048
_SIGNALS = (signal.SIGTERM, signal.SIGINT)
OnReady = Callable[[Core, int, int], None]


async def serve(settings: Settings, on_ready: OnReady) -> None:
    """Run until a signal arrives.

    Args:
        settings: frozen.
        on_ready: called once, with the core and the ports of REST and gRPC, when work is accepted.

    Raises:
        ConfigurationError: a port in use, a key or a model that cannot be loaded.
    """
    telemetry = _traces(settings)
    signer, metrics = load_signer(settings), Metrics(__version__)
    audit = open_log(settings, signer, metrics)
    core = Core(settings, metrics, signer, measure=True, audit=audit)
    listener = _bind(settings.host, settings.port)
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    rpc = RpcServer(core, f"{host}:{settings.grpc_port}")
    rest = HttpServer(create_app(core), grace_s=_GRACE_S)
    stop = _signalled()
    serving = asyncio.create_task(rest.serve(sockets=[listener]))
    control = ControlServer(core, listener.getsockname()[1])
    try:
        await control.start()
        await rpc.start()
        starting = asyncio.create_task(core.start())
        stopping = asyncio.create_task(stop.wait())
        await asyncio.wait({starting, stopping}, return_when=asyncio.FIRST_COMPLETED)
        if starting.done():
            starting.result()
            on_ready(core, listener.getsockname()[1], rpc.port)
            await asyncio.wait({serving, stopping}, return_when=asyncio.FIRST_COMPLETED)
        else:
            os._exit(0)  # asked to end while a load in a thread cannot be interrupted
    finally:
        await core.drain()
        rest.should_exit = True
        await control.stop()
        await rpc.stop(_GRACE_S)
        await serving
        if audit is not None:
            await audit.close()
        if telemetry is not None:
            await asyncio.to_thread(telemetry.stop)


def _traces(settings: Settings) -> "Telemetry | None":
    if settings.otlp_endpoint is None:
        return None
    from service.telemetry import start  # what is not asked for is not loaded

    return start(settings.otlp_endpoint, settings.trace_ratio)


def _signalled() -> asyncio.Event:
    stop = asyncio.Event()

    def on_signal(number: signal.Signals) -> None:
        if stop.is_set():
            os._exit(128 + number)
        _log.info("received %s: draining", number.name)
        stop.set()

    loop = asyncio.get_running_loop()
    for number in _SIGNALS:
        loop.add_signal_handler(number, on_signal, number)
    return stop


def _bind(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen(_BACKLOG)  # now: two processes can bind one port, but not both listen
    except OSError as error:
        listener.close()
        raise ConfigurationError(f"cannot listen for REST on {host}:{port}: {error}") from error
    return listener
