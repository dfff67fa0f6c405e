"""One process: bind both doors, load the model behind them, serve until a signal, drain, end.

Liveness answers from the first moment, readiness once the model is warm. SIGTERM and SIGINT drain:
new work is refused, accepted work is answered (bounded by `drain_ms`). A second one ends at once.
"""

import asyncio
import logging
import os
import signal
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from service import __version__
from service.audit.log import open_log
from service.config import Settings
from service.control import ControlServer
from service.core import Core
from service.metrics import Metrics
from service.receipts.signing import load_signer
from service.rest.app import create_app
from service.rest.listener import Listener, bind
from service.rest.operations import probe_app
from service.rpc.server import RpcServer
from service.tls import load_tls

if TYPE_CHECKING:
    from service.telemetry import Telemetry

_log = logging.getLogger(__name__)
_GRACE_S = 5.0
_SIGNALS = (signal.SIGTERM, signal.SIGINT)


@dataclass(frozen=True, slots=True)
class Ports:
    """Where the doors are."""

    rest: int
    grpc: int
    probes: int | None


OnReady = Callable[[Core, Ports], None]


async def serve(settings: Settings, on_ready: OnReady) -> None:
    """Run until a signal arrives.

    Args:
        settings: frozen.
        on_ready: called once, with the core and its ports, when work is accepted.

    Raises:
        ConfigurationError: a port in use, a key, a certificate or a model that cannot be loaded.
    """
    telemetry = _traces(settings)
    signer, metrics = load_signer(settings), Metrics(__version__)
    audit = open_log(settings, signer, metrics)
    core = Core(settings, metrics, signer, measure=True, audit=audit)
    tls = load_tls(settings, core.metrics)
    rest = Listener(create_app(core), bind(settings.host, settings.port), settings, _GRACE_S, tls)
    probes = None
    if settings.probe_port is not None:
        socket = bind(settings.host, settings.probe_port)
        probes = Listener(probe_app(core), socket, settings, _GRACE_S)
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    rpc = RpcServer(core, f"{host}:{settings.grpc_port}", tls)
    ports = Ports(rest.port, rpc.port, None if probes is None else probes.port)
    control = ControlServer(core, rest.port)
    stop = _signalled()
    serving = [asyncio.create_task(one.run_here()) for one in (rest, probes) if one is not None]
    try:
        await control.start()
        await rpc.start()
        starting = asyncio.create_task(core.start())
        stopping = asyncio.create_task(stop.wait())
        await asyncio.wait({starting, stopping}, return_when=asyncio.FIRST_COMPLETED)
        if starting.done():
            starting.result()
            on_ready(core, ports)
            await asyncio.wait({*serving, stopping}, return_when=asyncio.FIRST_COMPLETED)
        else:
            os._exit(0)  # asked to end while a load in a thread cannot be interrupted
    finally:
        await core.drain()
        rest.should_exit = True
        await control.stop()
        await rpc.stop(_GRACE_S)
        if probes is not None:
            probes.should_exit = True  # last: it tells that the others are ending
        await asyncio.gather(*serving)
        closed = audit is None or await audit.close()
        if telemetry is not None:
            await asyncio.to_thread(telemetry.stop)
        if core.changing or not closed:  # what a thread does cannot be interrupted
            still = "a model was still being loaded" if closed else "the audit log did not close"
            _log.warning("%s: it is not waited for", still)
            logging.shutdown()
            os._exit(0 if closed else 1)


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
