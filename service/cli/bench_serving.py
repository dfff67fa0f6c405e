"""`fcs bench load|newcomer|peers`: benches that send requests to running servers."""

import importlib.util
import signal
import sys
from pathlib import Path
from typing import Annotated

import typer

from service.errors import ConfigurationError

Pictures = Annotated[
    list[Path] | None,
    typer.Argument(help="Pictures; none: some are made.", exists=True, dir_okay=False),
]
ServerSetting = Annotated[
    list[str] | None,
    typer.Option("--server", help="NAME=VALUE, a setting of the server it starts; repeat."),
]


def load(
    pictures: Pictures = None,
    requests: Annotated[int, typer.Option(min=1, help="At most; retries not counted.")] = 200,
    duration: Annotated[float, typer.Option(min=0.1, help="Seconds; nothing new after.")] = 600,
    clients: Annotated[int, typer.Option(min=1, max=1000, help="Closed loop: how many.")] = 8,
    rate: Annotated[
        float | None, typer.Option(min=0.01, help="Open loop instead: arrivals a second.")
    ] = None,
    mix: Annotated[str, typer.Option(help="mixed, tiny, or e.g. short=3,long=1.")] = "mixed",
    doors: Annotated[str, typer.Option(help="rest, grpc, or rest,grpc.")] = "rest,grpc",
    timeout_ms: Annotated[int, typer.Option(min=1, help="Of every request.")] = 30_000,
    patience: Annotated[float, typer.Option(min=0, help="Longest wait for a retry, s.")] = 60,
    seed: Annotated[int, typer.Option(min=0, help="Of the order of requests.")] = 0,
    rest: Annotated[str | None, typer.Option(help="URL of a running server.")] = None,
    grpc: Annotated[str | None, typer.Option(help="host:port of the same server.")] = None,
    pid: Annotated[int | None, typer.Option(help="Its process, to watch its memory.")] = None,
    server: ServerSetting = None,
) -> None:
    """Latency, throughput, refusals and memory under load; every request accounted for."""
    _prepare()
    from service.bench.load.run import Load, run
    from service.bench.processes import Server

    if (rest is None) is not (grpc is None):
        raise ConfigurationError("--rest and --grpc name one server: give both, or neither")
    named = None if rest is None or grpc is None else Server(rest.rstrip("/"), grpc, pid)
    if named is not None and server:
        raise ConfigurationError("--server is for the server this command starts itself")
    wanted = Load(
        mix=mix,
        doors=tuple(door.strip() for door in doors.split(",")),
        pictures=tuple(pictures or ()),
        requests=requests,
        duration_s=duration,
        clients=clients,
        rate=rate,
        timeout_ms=timeout_ms,
        patience_s=patience,
        seed=seed,
    )
    run(wanted, named, server or ())


def newcomer(
    pictures: Pictures = None,
    neighbours: Annotated[int, typer.Option(min=1, help="Large requests.")] = 4,
    samples: Annotated[int, typer.Option(min=1, help="Of each large request.")] = 10_000,
    repeats: Annotated[int, typer.Option(min=3, help="Small requests, alone and beside.")] = 21,
    server: ServerSetting = None,
) -> None:
    """A request of 32 samples alone, and beside four of 10,000: how much longer it takes."""
    _prepare()
    from service.bench.newcomer import run

    run(pictures or (), neighbours, samples, repeats, server or ())


def peers(
    pictures: Annotated[list[Path], typer.Argument(help="Photos.", exists=True, dir_okay=False)],
    peer: Annotated[
        list[str] | None, typer.Option(help="plain, litserve, mosec or ray; repeat. Default: all.")
    ] = None,
    clients: Annotated[
        list[int] | None, typer.Option(min=1, help="Repeat. Default: 4 and 8.")
    ] = None,
    requests: Annotated[int, typer.Option(min=1, help="Of each cell of each round.")] = 16,
    rounds: Annotated[int, typer.Option(min=1, help="Visits of each server.")] = 3,
    selection_samples: Annotated[int, typer.Option(min=1)] = 100,
    samples: Annotated[int, typer.Option(min=1, help="Ceiling of the estimation sample.")] = 1000,
    bound: Annotated[float, typer.Option(min=0.01, max=0.999, help="To certify.")] = 0.9,
    shift: Annotated[float, typer.Option(min=0, max=4, help="epsilon/sigma.")] = 0.5,
    model: Annotated[str | None, typer.Option(help="Package name, hub id or folder.")] = None,
) -> None:
    """The same certified target served by FastAPI, LitServe, mosec and Ray Serve; what gains."""
    _prepare()
    from service.bench.peers.contenders import PEERS
    from service.bench.peers.contest import Contest
    from service.bench.peers.run import run
    from service.config import load_settings

    contest = Contest(
        pictures=tuple(pictures),
        peers=tuple(peer or PEERS),
        clients=tuple(clients or (4, 8)),
        requests=requests,
        rounds=rounds,
        selection=selection_samples,
        ceiling=samples,
        bound=bound,
        shift=shift,
    )
    run(contest, load_settings(model=model))


def _prepare() -> None:
    """Httpx is no dependency of the service; and whatever ends the bench ends its servers."""
    if importlib.util.find_spec("httpx") is None:
        raise ConfigurationError(
            "this bench sends its requests with httpx, which is not installed: run `make setup`,"
            " or install fcs-serve with the extra `dev`"
        )
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
