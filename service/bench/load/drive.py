"""Requests in time: an open loop that never waits for answers, a closed one of so many clients.

In the open loop a latency counts from the moment a request was due, not from when this process got
round to sending it: a stall of either side is in the figures, not left out of them.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np

from service.bench.load.doors import Reply
from service.bench.load.mix import RequestClass


@dataclass(frozen=True, slots=True)
class Shot:
    """A request to be sent: its class, its door by name, its picture by index."""

    kind: RequestClass
    door: str
    picture: int


@dataclass(frozen=True, slots=True)
class Record:
    """A request that was sent and has ended; seconds.

    Attributes:
        latency_s: from when it was due (open loop) or sent (closed loop, retries).
        ended_s: on the run's clock.
        retry: it repeats a rejected one, after the wait that was asked for.
    """

    shot: Shot
    reply: Reply
    latency_s: float
    ended_s: float
    retry: bool


Send = Callable[[Shot], Awaitable[Reply]]
OnRecord = Callable[[Record], None]


def shots(
    mix: dict[RequestClass, float], doors: Sequence[str], pictures: int, seed: int
) -> Iterator[Shot]:
    """An endless sequence, the same for the same seed."""
    generator = np.random.default_rng(seed)
    kinds, shares = list(mix), list(mix.values())
    while True:
        kind = kinds[generator.choice(len(kinds), p=shares)]
        door = doors[int(generator.integers(len(doors)))]
        yield Shot(kind, door, int(generator.integers(pictures)))


class Driver:
    """Sends shots and records how each ended.

    Args:
        send: a request through its door; must not raise.
        on_record: told of each request as it ends.
        patience_s: a rejected request is tried once more if it has to wait no longer than this.
    """

    def __init__(self, send: Send, on_record: OnRecord, patience_s: float) -> None:
        self._send = send
        self._on_record = on_record
        self._patience_s = patience_s
        self._began = time.monotonic()

    async def open_loop(
        self, source: Iterator[Shot], requests: int, duration_s: float, rate: float, seed: int
    ) -> None:
        """Poisson arrivals at `rate` a second until `requests` or `duration_s` are reached."""
        generator = np.random.default_rng(seed)
        self._began = due = time.monotonic()
        async with asyncio.TaskGroup() as group:
            for shot in islice(source, requests):
                due += generator.exponential(1 / rate)
                if due - self._began > duration_s:
                    break
                await asyncio.sleep(due - time.monotonic())
                group.create_task(self._one(shot, due))

    async def closed_loop(
        self, source: Iterator[Shot], requests: int, duration_s: float, clients: int
    ) -> None:
        """`clients` at a time, each sending as soon as it has its answer."""
        self._began = time.monotonic()
        left = islice(source, requests)

        async def client() -> None:
            for shot in left:
                if time.monotonic() - self._began > duration_s:
                    return
                await self._one(shot, time.monotonic())

        async with asyncio.TaskGroup() as group:
            for _ in range(clients):
                group.create_task(client())

    async def _one(self, shot: Shot, due: float) -> None:
        reply = await self._send(shot)
        self._record(shot, reply, due, retry=False)
        wait = reply.retry_after_s
        if wait is not None and wait <= self._patience_s:
            await asyncio.sleep(wait)
            again = time.monotonic()
            self._record(shot, await self._send(shot), again, retry=True)

    def _record(self, shot: Shot, reply: Reply, since: float, retry: bool) -> None:
        now = time.monotonic()
        self._on_record(Record(shot, reply, now - since, now - self._began, retry))
