"""Latency, fill and fairness of a simulated service, for numbers of devices nobody has at hand."""

import json
import math
import statistics
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np
from rich.console import Console
from rich.progress import track
from rich.table import Table

from service.bench.simulation import DeviceModel, Fate, Outcome, Simulation
from service.bench.workload import MIX, PRIORITIES, Request, mean_samples, poisson


@dataclass(frozen=True, slots=True)
class Row:
    """Requests of one kind and priority; seconds from arrival to answer; None if none was answered.

    Attributes:
        slowdown: median of these seconds, over those of such a request alone with plain batches.
    """

    kind: str
    priority: int
    requests: int
    p50_s: float | None
    p95_s: float | None
    p99_s: float | None
    slowdown: float | None
    cancelled: int
    expired: int
    rejected: int


@dataclass(frozen=True, slots=True)
class Report:
    """One number of devices.

    Attributes:
        fill: share of computed rows that were not padding.
        useful: share of computed rows that an answer needed: neither padding, nor drawn past the
            checkpoint at which it stopped, nor of those who left.
        utilisation: share of the time that the devices computed.
        fairness, worst_fairness: mean of Jain's index over all windows, and its first percentile;
            None without two long jobs side by side (`Simulation.fairness`).
        finished_s: simulated seconds.
    """

    devices: int
    fill: float
    useful: float
    utilisation: float
    fairness: float | None
    worst_fairness: float | None
    finished_s: float
    rows: tuple[Row, ...]


def run(model: DeviceModel, devices: Sequence[int], requests: int, load: float, seed: int) -> None:
    """Simulate each number of devices, print its table, then one JSON line for all."""
    reports = [simulate(model, count, requests, load, seed) for count in devices]
    for report in reports:
        _print(report, load)
    summary = {
        "bench": "simulate",
        "load": load,
        "requests": requests,
        "seed": seed,
        "device": asdict(model),
    }
    sys.stdout.write(json.dumps({**summary, "reports": [asdict(r) for r in reports]}) + "\n")


def simulate(model: DeviceModel, devices: int, requests: int, load: float, seed: int) -> Report:
    """Serve the default mix; `load` is the share of the samples that all devices could compute."""
    # One yardstick, and one workload, whatever the policy: batches are taken as soon as possible.
    plain = replace(model, late=False, ahead=False, linger_s=0)
    lone_s = {kind.name: _alone(plain, Request(kind, 0, 0, math.inf, math.inf)) for kind in MIX}
    simulation = Simulation(model, devices)
    rate = load * devices * model.rate / mean_samples(MIX)
    outcomes = list(
        track(
            simulation.run(poisson(requests, rate, lone_s, seed)),
            f"{devices} device(s)",
            total=requests,
            console=Console(stderr=True),
        )
    )
    needed = sum(o.request.kind.stops for o in outcomes if o.fate is Fate.ANSWERED)
    fairness = simulation.fairness
    return Report(
        devices,
        simulation.fill,
        needed / max(1, simulation.rows),
        simulation.utilisation,
        statistics.fmean(fairness) if fairness else None,
        float(np.percentile(fairness, 1)) if fairness else None,
        simulation.now,
        tuple(
            _row(kind.name, priority, outcomes, lone_s[kind.name])
            for kind in MIX
            for priority in sorted((0, *(priority for priority, _ in PRIORITIES)), reverse=True)
        ),
    )


def _alone(model: DeviceModel, request: Request) -> float:
    [outcome] = Simulation(model, 1).run([request])
    return outcome.seconds


def _row(kind: str, priority: int, outcomes: Sequence[Outcome], lone_s: float) -> Row:
    own = [o for o in outcomes if (o.request.kind.name, o.request.priority) == (kind, priority)]
    seconds = [o.seconds for o in own if o.fate is Fate.ANSWERED]
    p50 = p95 = p99 = slowdown = None
    if seconds:
        p50, p95, p99 = np.percentile(seconds, (50, 95, 99)).tolist()
        slowdown = p50 / lone_s
    cancelled, expired, rejected = (
        sum(o.fate is fate for o in own) for fate in (Fate.CANCELLED, Fate.EXPIRED, Fate.REJECTED)
    )
    return Row(kind, priority, len(own), p50, p95, p99, slowdown, cancelled, expired, rejected)


def _print(report: Report, load: float) -> None:
    title = (
        f"{report.devices} device(s), load {load:g}: fill {report.fill:.3f},"
        f" useful {report.useful:.3f}, utilisation {report.utilisation:.3f}"
    )
    if report.fairness is not None:
        title += f", Jain {report.fairness:.4f} (1st percentile {report.worst_fairness:.3f})"
    table = Table(
        "samples", "prio", "number", "p50 s", "p95 s", "p99 s", "slow", "left", "late", "429",
        title=title,
    )  # fmt: skip
    for row in report.rows:
        table.add_row(
            row.kind,
            f"{row.priority:+d}",
            str(row.requests),
            *("-" if x is None else f"{x:.3f}" for x in (row.p50_s, row.p95_s, row.p99_s)),
            "-" if row.slowdown is None else f"{row.slowdown:.2f}",
            *(str(n) for n in (row.cancelled, row.expired, row.rejected)),
        )
    Console().print(table)
