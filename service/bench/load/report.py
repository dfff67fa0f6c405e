"""Records -> figures: a row for each class and door, refusals, and the books against the server's.

Nothing is left out: in every row the answered, rejected and failed add up to the sent.
"""

import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from service.bench.load.drive import Record
from service.bench.processes import Counters, value


@dataclass(frozen=True, slots=True)
class Row:
    """One class through one door; latencies in milliseconds, of first tries that were answered.

    Attributes:
        sent: retries included, as in the next three.
        requests_per_s, samples_per_s: answered, over the whole run.
        errors: how many failed with each code.
    """

    kind: str
    door: str
    sent: int
    answered: int
    rejected: int
    failed: int
    requests_per_s: float
    samples_per_s: float
    p50_ms: float | None
    p95_ms: float | None
    p99_ms: float | None
    max_ms: float | None
    errors: dict[str, int]


@dataclass(frozen=True, slots=True)
class Refusals:
    """Rejected first tries: what they were told to wait, and whether it helped.

    Attributes:
        without_wait: of them, those not told how long to wait.
        retried: those that waited as told and were sent once more; `accepted`: not rejected again.
    """

    rejected: int
    without_wait: int
    min_wait_s: float | None
    median_wait_s: float | None
    retried: int
    accepted: int


@dataclass(frozen=True, slots=True)
class Books:
    """The server's counters beside what the clients saw.

    Attributes:
        differences: "route code" -> the server's count minus ours, where they differ. Requests
            whose client got no status may stand here.
        samples_answered: selection and estimation samples of all answers.
        samples_computed: of `fcs_samples_total`; more by what was drawn ahead of a look or in vain.
    """

    differences: dict[str, int]
    samples_answered: int
    samples_computed: int


def quantile(latencies: Sequence[float], level: float) -> float | None:
    """The smallest latency that at least this share did not exceed; None of none."""
    if not latencies:
        return None
    return float(np.quantile(latencies, level, method="inverted_cdf"))


def row(kind: str, door: str, records: Sequence[Record], elapsed_s: float) -> Row:
    """Figures of some records."""
    outcomes = Counter(record.reply.outcome for record in records)
    answered = [record for record in records if record.reply.outcome == "answered"]
    times = [1000 * record.latency_s for record in answered if not record.retry]
    return Row(
        kind=kind,
        door=door,
        sent=len(records),
        answered=outcomes["answered"],
        rejected=outcomes["rejected"],
        failed=outcomes["failed"],
        requests_per_s=len(answered) / elapsed_s,
        samples_per_s=sum(map(_samples, answered)) / elapsed_s,
        p50_ms=quantile(times, 0.5),
        p95_ms=quantile(times, 0.95),
        p99_ms=quantile(times, 0.99),
        max_ms=max(times, default=None),
        errors=dict(Counter(r.reply.code for r in records if r.reply.outcome == "failed")),
    )


def rows(records: Sequence[Record], elapsed_s: float) -> list[Row]:
    """One row for each class and door that was used, and one of all together."""
    groups: dict[tuple[str, str], list[Record]] = {}
    for record in records:
        groups.setdefault((record.shot.kind.name, record.shot.door), []).append(record)
    found = [row(*key, group, elapsed_s) for key, group in sorted(groups.items())]
    return [*found, row("all", "all", records, elapsed_s)]


def refusals(records: Sequence[Record]) -> Refusals:
    """What rejections were worth."""
    rejected = [r.reply for r in records if r.reply.outcome == "rejected" and not r.retry]
    waits = [reply.retry_after_s for reply in rejected if reply.retry_after_s is not None]
    retries = [record.reply for record in records if record.retry]
    return Refusals(
        rejected=len(rejected),
        without_wait=len(rejected) - len(waits),
        min_wait_s=min(waits, default=None),
        median_wait_s=statistics.median(waits) if waits else None,
        retried=len(retries),
        accepted=sum(reply.outcome != "rejected" for reply in retries),
    )


def books(
    records: Sequence[Record], routes: Mapping[str, str], before: Counters, after: Counters
) -> Books:
    """The run as the server counted it; `routes` names each door's."""
    seen = Counter((routes[record.shot.door], record.reply.code) for record in records)
    name = "fcs_requests_total"
    codes = {dict(labels)["code"] for found, labels in after if found == name}
    differences = {}
    for route in routes.values():
        for code in codes | {code for _, code in seen}:
            labels = {"route": route, "code": code}
            counted = value(after, name, **labels) - value(before, name, **labels)
            if counted != seen[route, code]:
                differences[f"{route} {code}"] = int(counted) - seen[route, code]
    computed = 0.0
    for stage in ("select", "estimate"):
        computed += value(after, "fcs_samples_total", stage=stage)
        computed -= value(before, "fcs_samples_total", stage=stage)
    answered = sum(_samples(r) for r in records if r.reply.outcome == "answered")
    return Books(differences, answered, int(computed))


def _samples(record: Record) -> int:
    return record.reply.selection + record.reply.estimation
