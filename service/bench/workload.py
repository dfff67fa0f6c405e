"""What a simulated service is asked: kinds of requests in their shares, at Poisson times."""

import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from service.certificate.stopping import checkpoints

_ESTIMATION = 1000
_BEFORE_ESTIMATION = 1 + 100  # clean and selection samples


@dataclass(frozen=True, slots=True)
class Kind:
    """Requests of one size.

    Attributes:
        name: as the table shows it.
        share: of all requests; shares add up to 1.
        samples: the ceiling.
        looks: rising numbers of samples at which the job may stop; empty if it never stops early.
        stops: the one of them, or the ceiling, at which it does.
    """

    name: str
    share: float
    samples: int
    looks: tuple[int, ...]
    stops: int


# The default request stops where the median picture reaches its target (docs/performance.md).
MIX = (
    Kind("32", 0.5, 32, (), 32),
    Kind(
        "default",
        0.4,
        _BEFORE_ESTIMATION + _ESTIMATION,
        tuple(_BEFORE_ESTIMATION + n for n in checkpoints(_ESTIMATION)),
        _BEFORE_ESTIMATION + 72,
    ),
    Kind("1,000", 0.08, 1000, (), 1000),
    Kind("10,000", 0.02, 10_000, (), 10_000),
)
# Share of requests by priority; the others have priority 0.
PRIORITIES = ((1, 0.1), (-1, 0.1))
CANCELLED = 0.02
LIMITED = 0.05
# A limited request allows so many times the time that it would take alone.
PATIENCE = 10.0


@dataclass(frozen=True, slots=True)
class Request:
    """One request; times in seconds, infinity for never."""

    kind: Kind
    priority: int
    arrives: float
    leaves: float
    deadline: float


def mean_samples(mix: Sequence[Kind]) -> float:
    """Samples an average request needs."""
    return sum(kind.share * kind.stops for kind in mix)


def poisson(
    count: int, rate: float, lone_s: dict[str, float], seed: int, mix: Sequence[Kind] = MIX
) -> Iterator[Request]:
    """Requests in order of arrival.

    Args:
        count: of requests.
        rate: requests a second.
        lone_s: seconds that a request of each kind takes alone, by name; whoever leaves early does
            so after an exponential time of that mean.
        seed: same seed, same requests.
        mix: their kinds.
    """
    chance = random.Random(seed)  # noqa: S311  # a simulation
    shares = [kind.share for kind in mix]
    priorities = [0, *(priority for priority, _ in PRIORITIES)]
    weights = [1 - sum(share for _, share in PRIORITIES), *(share for _, share in PRIORITIES)]
    now = 0.0
    for _ in range(count):
        now += chance.expovariate(rate)
        [kind] = chance.choices(mix, shares)
        [priority] = chance.choices(priorities, weights)
        lone = lone_s[kind.name]
        leaves = deadline = math.inf
        fate = chance.random()
        if fate < CANCELLED:
            leaves = now + chance.expovariate(1 / lone)
        elif fate < CANCELLED + LIMITED:
            deadline = now + PATIENCE * lone
        yield Request(kind, priority, now, leaves, deadline)
