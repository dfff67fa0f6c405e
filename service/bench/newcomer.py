"""How long a small request waits behind large ones: 32 samples alone, then beside 10,000 each.

The small request is 8 selection and 24 estimation samples, and the noise-free one that every
certificate has. It is sent one at a time, first on an idle service, then while the large ones run.
The service owes it at most three times its lone latency plus one device batch.
"""

import asyncio
import json
import statistics
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.progress import track
from rich.table import Table

from service.bench.load.doors import RestDoor
from service.bench.load.mix import CLASSES, RequestClass
from service.bench.load.pictures import load_pictures
from service.bench.processes import Counters, counters, fcs_server, value
from service.errors import ConfigurationError

_NEWCOMER = CLASSES["short"]
_ALLOWED_RATIO = 3.0
_TIMEOUT_MS = 600_000
_WARM_UP = 3
_POLL_S = 0.05
_SETTLED_SAMPLES = 50  # of each large request, when the first newcomer comes
_MOST_PAUSE_S = 0.1


@dataclass(frozen=True, slots=True)
class Newcomer:
    """Latencies of the small request in milliseconds.

    Attributes:
        lone: one after the other on an idle service; beside: while the large requests ran.
        batch_ms: mean device batch meanwhile.
    """

    lone: tuple[float, ...]
    beside: tuple[float, ...]
    batch_ms: float

    @property
    def lone_ms(self) -> float:
        """Median alone."""
        return statistics.median(self.lone)

    @property
    def beside_ms(self) -> float:
        """Median beside the large requests."""
        return statistics.median(self.beside)

    @property
    def allowed_ms(self) -> float:
        """What the service owes."""
        return _ALLOWED_RATIO * self.lone_ms + self.batch_ms


def run(
    pictures: Sequence[Path], neighbours: int, samples: int, repeats: int, settings: Sequence[str]
) -> None:
    """Measure on a server started for it; print the table, then one JSON line.

    Raises:
        ConfigurationError: a picture that cannot be read, no server, or large requests that ended
            before the small ones did.
    """
    with fcs_server(settings) as server:
        found = asyncio.run(
            _measure(server.rest, load_pictures(pictures), neighbours, samples, repeats)
        )
    _print(found, neighbours, samples)


async def _measure(
    url: str, pictures: list[bytes], neighbours: int, samples: int, repeats: int
) -> Newcomer:
    large = RequestClass("large", samples=samples)
    pauses = np.random.default_rng(0).uniform(0, _MOST_PAUSE_S, repeats)
    console = Console(stderr=True)
    async with RestDoor(url, pictures, _TIMEOUT_MS) as door:
        for _ in range(_WARM_UP):
            await _timed(door)
        lone = [await _timed(door) for _ in track(range(repeats), "alone", console=console)]
        crowd = [
            asyncio.create_task(door.send(large, i % len(pictures))) for i in range(neighbours)
        ]
        try:
            await _settled(url, crowd)
            before, beside = counters(url), []
            for pause in track(pauses, "beside the large", console=console):
                await asyncio.sleep(pause)  # so that it comes at any point of a batch
                beside.append(await _timed(door))
                _check_running(crowd)
            after = counters(url)
        finally:
            for task in crowd:
                task.cancel()
            for task in crowd:
                with suppress(asyncio.CancelledError):
                    await task
    return Newcomer(tuple(lone), tuple(beside), _batch_ms(before, after))


async def _timed(door: RestDoor) -> float:
    """Milliseconds of one small request.

    Raises:
        ConfigurationError: it was not answered.
    """
    began = time.perf_counter()
    reply = await door.send(_NEWCOMER, 0)
    if reply.outcome != "answered":
        raise ConfigurationError(f"the small request ended with {reply.code}")
    return 1000 * (time.perf_counter() - began)


async def _settled(url: str, crowd: Sequence["asyncio.Task[object]"]) -> None:
    """Wait until the large requests have drawn estimation samples."""
    at_first = value(counters(url), "fcs_samples_total", stage="estimate")
    wanted = at_first + _SETTLED_SAMPLES * len(crowd)
    while value(await _counters(url), "fcs_samples_total", stage="estimate") < wanted:
        _check_running(crowd)
        await asyncio.sleep(_POLL_S)


async def _counters(url: str) -> Counters:
    return await asyncio.to_thread(counters, url)  # the large requests are still being sent


def _check_running(crowd: Sequence["asyncio.Task[object]"]) -> None:
    if ended := sum(task.done() for task in crowd):
        raise ConfigurationError(
            f"{ended} of {len(crowd)} large requests ended too early: give them more --samples"
        )


def _batch_ms(before: Counters, after: Counters) -> float:
    def spent(name: str) -> float:
        return value(after, name) - value(before, name)

    batches = spent("fcs_batch_samples_count")
    return 1000 * spent("fcs_device_seconds_total") / max(batches, 1)


def _print(found: Newcomer, neighbours: int, samples: int) -> None:
    rows = (("alone", found.lone), (f"beside {neighbours} of {samples} samples", found.beside))
    table = Table("32 samples", "median ms", "max ms", title=f"{len(found.lone)} requests each")
    for name, times in rows:
        table.add_row(name, f"{statistics.median(times):.0f}", f"{max(times):.0f}")
    ratio = found.beside_ms / found.lone_ms
    over = sum(ms > found.allowed_ms for ms in found.beside)
    console = Console()
    console.print(table)
    console.print(
        f"ratio {ratio:.2f}; allowed {found.allowed_ms:.0f} ms (3 x alone + a batch of"
        f" {found.batch_ms:.1f} ms); over it: {over} of {len(found.beside)}"
    )
    summary = {
        "bench": "newcomer",
        "neighbours": neighbours,
        "neighbour_samples": samples,
        "lone_ms": found.lone_ms,
        "beside_ms": found.beside_ms,
        "ratio": ratio,
        "allowed_ms": found.allowed_ms,
        "within": found.beside_ms <= found.allowed_ms,
        "requests_over": over,
    }
    sys.stdout.write(json.dumps(summary | asdict(found)) + "\n")
