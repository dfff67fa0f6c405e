"""The tables of `fcs bench peers` and its JSON line."""

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict

from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from service.bench.peers.contenders import version
from service.bench.peers.contest import SIGMA, Contest, Plan
from service.bench.peers.sampler import Arrangement
from service.bench.peers.split import Gain, Row


def show(
    contest: Contest,
    plan: Plan,
    rows: Sequence[Row],
    split: Sequence[Gain],
    chosen: dict[str, Arrangement],
    lacking: dict[str, str],
) -> None:
    """Print rows, split, pilot and arrangements, then one JSON line."""
    console = Console()
    title = (
        f"c clients, {contest.bound:g} at {contest.shift:g} sigma; {len(contest.pictures)} pictures"
    )
    table = Table(
        "server", "way", "c", "req/s", "samples", "p50", "p95 ms", "certified", "bound",
        title=title, box=SIMPLE,
    )  # fmt: skip
    for one in rows:
        bound = "-" if one.median_bound <= -1 else f"{one.median_bound:.3f}"
        figures = (f"{one.requests_per_s:.2f}", f"{one.samples_per_request:.0f}")
        times = (f"{one.p50_ms:.0f}", f"{one.p95_ms:.0f}", f"{100 * one.certified:.0f} %")
        table.add_row(one.name, one.way, str(one.clients), *figures, *times, bound)
    console.print(table)
    parts = Table(
        "over", "clients", "total", "early stopping", "batching", "bounds", "runtime", box=SIMPLE
    )
    for gain in split:
        factors = (gain.total, gain.early_stopping, gain.batching, gain.bounds, gain.runtime)
        parts.add_row(gain.peer, str(gain.clients), *(f"{factor:.2f}" for factor in factors))
    console.print(parts)
    for way, found in (("this project's bound", plan.fixed), ("the paper's", plan.paper)):
        console.print(
            f"{way}: {found.samples} samples certify {100 * found.share:.0f} % of the pilot"
        )
    for peer, needed in lacking.items():
        console.print(f"{peer} left out: {needed} is not installed (make bench-peers)")
    for peer, how in chosen.items():
        workers = f"{how.workers} worker(s) of {how.threads} thread(s)"
        console.print(f"{peer} {version(peer)}: {workers}, {how.rows} rows a call")
    summary = {
        "bench": "peers",
        "pictures": len(contest.pictures),
        "target": {"bound": contest.bound, "shift": contest.shift},
        "sigma": SIGMA,
        "selection_samples": contest.selection,
        "ceiling": contest.ceiling,
        "rounds": contest.rounds,
        "pilot": {"fixed": asdict(plan.fixed), "paper": asdict(plan.paper)},
        "arrangements": {
            peer: asdict(how) | {"version": version(peer)} for peer, how in chosen.items()
        },
        "left_out": lacking,
        "rows": [asdict(one) for one in rows],
        "gains": [asdict(gain) for gain in split],
    }
    sys.stdout.write(json.dumps(summary) + "\n")
