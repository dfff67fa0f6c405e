"""The run of `fcs bench load`: a server, its doors, the traffic, the table, one JSON line."""

import asyncio
import json
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import AsyncExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.box import SIMPLE
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from service.bench.load.doors import Door, Reply, make_door
from service.bench.load.drive import Driver, Record, Shot, shots
from service.bench.load.memory import MemoryReport, Reading, summarise, watch
from service.bench.load.mix import RequestClass, parse_mix
from service.bench.load.pictures import load_pictures
from service.bench.load.report import Books, Refusals, Row, books, refusals, rows
from service.bench.processes import Server, counters, fcs_server

_SETTLE_S = 3.0  # the server counts a request just after its last byte was sent
_SETTLE_POLL_S = 0.1


@dataclass(frozen=True, slots=True)
class Load:
    """What to send.

    Attributes:
        mix: a mix's name, or classes with weights.
        doors: `rest`, `grpc`.
        pictures: files; none: made here.
        requests: at most, retries not counted.
        duration_s: nothing new is sent after it.
        clients: of the closed loop; unused where `rate` is given.
        rate: of the open loop, requests a second.
        timeout_ms: of every request.
        patience_s: longest wait for a retry of a rejected request.
        seed: of the sequence of classes, doors, pictures and arrivals.
    """

    mix: str
    doors: tuple[str, ...]
    pictures: tuple[Path, ...]
    requests: int
    duration_s: float
    clients: int
    rate: float | None
    timeout_ms: int
    patience_s: float
    seed: int


def run(load: Load, server: Server | None, settings: Sequence[str]) -> None:
    """Send the load to a server, or to one started for it; print the table, then JSON.

    Raises:
        ConfigurationError: a mix, door or picture that is not there, or no server.
    """
    mix, pictures = parse_mix(load.mix), load_pictures(load.pictures)
    with _ready(server, settings) as target:
        found = asyncio.run(_measure(load, target, mix, pictures))
    _print(load, mix, found)


@contextmanager
def _ready(server: Server | None, settings: Sequence[str]) -> Iterator[Server]:
    if server is not None:
        yield server
    else:
        with fcs_server(settings) as started:
            yield started


@dataclass(frozen=True, slots=True)
class _Found:
    elapsed_s: float
    rows: list[Row]
    refusals: Refusals
    books: Books
    memory: MemoryReport | None


async def _measure(
    load: Load, server: Server, mix: dict[RequestClass, float], pictures: list[bytes]
) -> _Found:
    records: list[Record] = []
    readings: list[Reading] = []
    before = counters(server.rest)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    console = Console(stderr=True)
    with Progress(*columns, TimeElapsedColumn(), console=console) as progress:
        bar = progress.add_task("requests", total=load.requests)

        def on_record(record: Record) -> None:
            records.append(record)
            progress.advance(bar, not record.retry)

        async with AsyncExitStack() as stack:
            doors: dict[str, Door] = {}
            for name in load.doors:
                door = make_door(name, server.rest, server.grpc, pictures, load.timeout_ms)
                doors[name] = await stack.enter_async_context(door)

            async def send(shot: Shot) -> Reply:
                return await doors[shot.door].send(shot.kind, shot.picture)

            watching = None
            if server.pid is not None:
                watching = asyncio.create_task(watch(server.pid, lambda: len(records), readings))
                await asyncio.sleep(0)  # the first reading comes before the first request
            driver = Driver(send, on_record, load.patience_s)
            source = shots(mix, load.doors, len(pictures), load.seed)
            began = time.monotonic()
            if load.rate is not None:
                await driver.open_loop(source, load.requests, load.duration_s, load.rate, load.seed)
            else:
                await driver.closed_loop(source, load.requests, load.duration_s, load.clients)
            elapsed = time.monotonic() - began
            if watching is not None:
                watching.cancel()
    routes = {name: door.route for name, door in doors.items()}
    compared = books(records, routes, before, counters(server.rest))
    until = time.monotonic() + _SETTLE_S
    while compared.differences and time.monotonic() < until:
        await asyncio.sleep(_SETTLE_POLL_S)
        compared = books(records, routes, before, counters(server.rest))
    return _Found(elapsed, rows(records, elapsed), refusals(records), compared, summarise(readings))


def _print(load: Load, mix: dict[RequestClass, float], found: _Found) -> None:
    shares = {kind.name: share for kind, share in mix.items()}
    how = f"{load.clients} clients" if load.rate is None else f"{load.rate:g} requests/s offered"
    table = Table(
        "class", "door", "sent", "ok", "429", "failed", "req/s", "smp/s",
        "p50", "p95", "p99", "max ms", box=SIMPLE, title=f"{how}, {found.elapsed_s:.1f} s",
    )  # fmt: skip
    for row in found.rows:
        counts = (row.sent, row.answered, row.rejected, row.failed)
        rates = (f"{row.requests_per_s:.2f}", f"{row.samples_per_s:.0f}")
        times = (row.p50_ms, row.p95_ms, row.p99_ms, row.max_ms)
        shown = ("-" if ms is None else f"{ms:.0f}" for ms in times)
        table.add_row(row.kind, row.door, *map(str, counts), *rates, *shown)
    console = Console()
    console.print(table)
    _explain(console, found)
    *parts, whole = found.rows
    summary = {
        "bench": "load",
        "loop": "closed" if load.rate is None else "open",
        "clients": load.clients if load.rate is None else None,
        "rate": load.rate,
        "mix": shares,
        "elapsed_s": found.elapsed_s,
        "rows": [asdict(row) for row in parts],
        "all": asdict(whole),
        "refusals": asdict(found.refusals),
        "server": asdict(found.books),
        "memory": None if found.memory is None else asdict(found.memory),
    }
    sys.stdout.write(json.dumps(summary) + "\n")


def _explain(console: Console, found: _Found) -> None:
    refused, counted, memory = found.refusals, found.books, found.memory
    if refused.rejected:
        waits = "none was told how long to wait"
        if refused.min_wait_s is not None:
            waits = f"waits of {refused.min_wait_s:g} s at least, {refused.median_wait_s:g} median"
        console.print(
            f"rejected {refused.rejected}: {waits}; of {refused.retried} that waited as told,"
            f" {refused.accepted} were accepted"
        )
    agreement = "agree" if not counted.differences else f"differ: {counted.differences}"
    console.print(
        f"counts of client and server {agreement}; samples: {counted.samples_answered} answered,"
        f" {counted.samples_computed} computed"
    )
    if memory is not None:
        first, warm, last, peak = (
            size / 2**20 for size in (memory.first, memory.warm, memory.last, memory.peak)
        )
        console.print(
            f"resident memory: first {first:.0f} MiB, warm {warm:.0f}, last {last:.0f}"
            f" ({100 * memory.growth:+.1f} %), peak {peak:.0f}"
        )
