"""Memory of the server while requests end: flat, or growing?"""

import asyncio
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from service.bench.processes import resident_bytes

_WARM_UP = 0.1  # of the requests
_INTERVAL_S = 0.25


@dataclass(frozen=True, slots=True)
class Reading:
    """Resident bytes when so many requests had ended."""

    ended: int
    resident: int


@dataclass(frozen=True, slots=True)
class MemoryReport:
    """Resident memory of the server's process, bytes.

    Attributes:
        first: before the first request.
        warm: median while the second tenth of the requests ended.
        last: median while the last tenth ended.
        peak: the largest reading.
        growth: last / warm - 1.
    """

    first: int
    warm: int
    last: int
    peak: int
    growth: float


async def watch(pid: int, ended: Callable[[], int], readings: list[Reading]) -> None:
    """Append readings until cancelled, or until the process is gone."""
    while (resident := resident_bytes(pid)) is not None:
        readings.append(Reading(ended(), resident))
        await asyncio.sleep(_INTERVAL_S)


def summarise(readings: Sequence[Reading]) -> MemoryReport | None:
    """What the readings of a whole run say; None without any."""
    if not readings:
        return None
    whole = readings[-1].ended
    warm = _median(readings, _WARM_UP * whole, 2 * _WARM_UP * whole)
    last = _median(readings, (1 - _WARM_UP) * whole, whole)
    return MemoryReport(
        first=readings[0].resident,
        warm=warm,
        last=last,
        peak=max(reading.resident for reading in readings),
        growth=last / warm - 1,
    )


def _median(readings: Sequence[Reading], low: float, high: float) -> int:
    """Over the readings in a range of ended requests; in a short run, the first from `low` on."""
    inside = [reading.resident for reading in readings if low <= reading.ended <= high]
    later = [reading.resident for reading in readings if reading.ended >= low]
    return int(statistics.median(inside or later[:1]))
