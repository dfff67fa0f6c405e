"""Clients of one contender: so many at a time, each sending as soon as it has its answer."""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass

import httpx

from service.bench.peers.contenders import JSON, TIMEOUT_S, Answer, parse_answer
from service.errors import ConfigurationError


@dataclass(frozen=True, slots=True)
class Served:
    """One answer, and the seconds it took."""

    answer: Answer
    latency_s: float


@dataclass(frozen=True, slots=True)
class Cell:
    """The answers to some requests, and the seconds from the first sent to the last answered."""

    served: tuple[Served, ...]
    elapsed_s: float


def measure(contender: str, url: str, bodies: Sequence[bytes], clients: int) -> Cell:
    """Send all bodies, `clients` at a time.

    Raises:
        ConfigurationError: any of them was not answered: what failed cannot be compared.
    """
    return asyncio.run(_measure(contender, url, bodies, clients))


async def _measure(contender: str, url: str, bodies: Sequence[bytes], clients: int) -> Cell:
    served: list[Served] = []
    left = iter(bodies)

    async def client(http: httpx.AsyncClient) -> None:
        for body in left:
            began = time.perf_counter()
            try:
                response = await http.post(url, content=body, headers=JSON)
            except httpx.HTTPError as error:
                raise ConfigurationError(f"{contender} failed: {error!r}") from error
            if not response.is_success:
                raise ConfigurationError(f"{contender} failed: {response.text[:300]}")
            seconds = time.perf_counter() - began
            served.append(Served(parse_answer(contender, response.content), seconds))

    began = time.perf_counter()
    async with httpx.AsyncClient(timeout=TIMEOUT_S) as http:
        await asyncio.gather(*(client(http) for _ in range(clients)))
    return Cell(tuple(served), time.perf_counter() - began)
