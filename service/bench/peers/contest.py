"""What is compared, and what the pilot made of it."""

from dataclasses import dataclass
from pathlib import Path

from service.bench.peers.pilot import FixedSamples

SIGMA = 0.25


@dataclass(frozen=True, slots=True)
class Contest:
    """What is compared.

    Attributes:
        pictures: files.
        peers: of `PEERS`; those not installed are left out, and said to be.
        clients: numbers of clients; 1 is measured besides, where the split needs it.
        requests: of each cell of each round.
        rounds: visits of each server.
        selection: n0; ceiling: most estimation samples.
        bound, shift: the target, and its radius in units of sigma.
    """

    pictures: tuple[Path, ...]
    peers: tuple[str, ...]
    clients: tuple[int, ...]
    requests: int
    rounds: int
    selection: int
    ceiling: int
    bound: float
    shift: float


@dataclass(frozen=True, slots=True)
class Plan:
    """What the pilot found: samples of peers with this project's bound and with the paper's."""

    fixed: FixedSamples
    paper: FixedSamples
