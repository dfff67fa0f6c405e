"""Rows -> what the gain over a peer is made of. The factors multiply to the total, exactly.

R(server, way, clients) are requests a second. Over a peer P with c clients:

    total           R(fcs, target, c) / R(P, paper, c)
    bounds          R(P, fixed, c) / R(P, paper, c): this project's bounds instead of the paper's
    early_stopping  R(fcs, target, c) / R(fcs, fixed, c): as many samples as the picture needs
    runtime         R(fcs, fixed, 1) / R(P, fixed, 1): the same samples, one client, nothing shared
    batching        [R(fcs, fixed, c) / R(fcs, fixed, 1)] / [R(P, fixed, c) / R(P, fixed, 1)]:
                    what c clients gain over one, here and there
"""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from service.bench.load.report import quantile
from service.bench.peers.contenders import FCS, AnyWay
from service.bench.peers.traffic import Cell


@dataclass(frozen=True, slots=True)
class Key:
    """Which server was asked, how, by how many clients at a time."""

    name: str
    way: AnyWay
    clients: int


@dataclass(frozen=True, slots=True)
class Row:
    """Figures of one key over all rounds.

    Attributes:
        samples_per_request: mean, selection and estimation; the noise-free one is not counted.
        certified: share of the answers that reached the target.
        median_bound: -1 is vacuous.
    """

    name: str
    way: AnyWay
    clients: int
    requests: int
    requests_per_s: float
    samples_per_request: float
    p50_ms: float
    p95_ms: float
    certified: float
    median_bound: float


@dataclass(frozen=True, slots=True)
class Gain:
    """Over one peer with so many clients; see above."""

    peer: str
    clients: int
    total: float
    early_stopping: float
    batching: float
    bounds: float
    runtime: float


def row(key: Key, cells: Sequence[Cell], wanted: float) -> Row:
    """All rounds of one key."""
    served = [one for cell in cells for one in cell.served]
    times = [1000 * one.latency_s for one in served]
    bounds = [one.answer.bound for one in served]
    return Row(
        name=key.name,
        way=key.way,
        clients=key.clients,
        requests=len(served),
        requests_per_s=len(served) / sum(cell.elapsed_s for cell in cells),
        samples_per_request=statistics.fmean(one.answer.samples for one in served),
        p50_ms=quantile(times, 0.5) or 0.0,
        p95_ms=quantile(times, 0.95) or 0.0,
        certified=sum(bound >= wanted for bound in bounds) / len(bounds),
        median_bound=statistics.median(bounds),
    )


def gains(rates: Mapping[Key, float], peer: str, clients: Sequence[int]) -> list[Gain]:
    """The gain over a peer at each number of clients.

    Args:
        rates: requests a second of every key named above.
        peer: its name.
        clients: each c.
    """
    alone, peer_alone = rates[Key(FCS, "fixed", 1)], rates[Key(peer, "fixed", 1)]
    found = []
    for count in clients:
        stopping, fixed = rates[Key(FCS, "target", count)], rates[Key(FCS, "fixed", count)]
        theirs, paper = rates[Key(peer, "fixed", count)], rates[Key(peer, "paper", count)]
        found.append(
            Gain(
                peer=peer,
                clients=count,
                total=stopping / paper,
                early_stopping=stopping / fixed,
                batching=(fixed / alone) / (theirs / peer_alone),
                bounds=theirs / paper,
                runtime=alone / peer_alone,
            )
        )
    return found
