"""How tight the certificates are on given pictures: closed forms, joint problem, the paper.

All columns come from the same samples of the same pictures; figures are medians over pictures.
"""

import json
import math
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.progress import track
from rich.table import Table
from threadpoolctl import threadpool_limits

from service.bench.sampling import evidence_of, sample
from service.certificate.bounds import paper_bound
from service.certificate.certify import certify
from service.config import Settings
from service.models.lanes import Lanes
from service.models.store import load_model

_SHIFTS = (0.25, 0.5, 1.0, 2.0)


@dataclass(frozen=True, slots=True)
class Row:
    """Medians over the pictures at one shift epsilon/sigma."""

    shift: float
    closed_forms: float
    bound: float
    served_bound: float
    paper: float


def run(
    settings: Settings, pictures: Sequence[Path], sigma: float, selection: int, samples: int
) -> None:
    """Sample and certify every picture, print the medians, then one JSON line."""
    threadpool_limits(limits=1, user_api="blas")
    model = load_model(settings.model, settings)
    lanes = Lanes(model.lanes, model.threads)
    alpha = 1 - settings.default_confidence
    found: dict[float, list[tuple[float, float, float, float]]] = {shift: [] for shift in _SHIFTS}
    seconds = []
    for path in track(pictures, "certifying", console=Console(stderr=True)):
        evidence = evidence_of(sample(model, lanes, path, settings, sigma, selection, samples))
        began = time.perf_counter()
        findings = certify(evidence, sigma, tuple(sigma * s for s in _SHIFTS), alpha)
        seconds.append(time.perf_counter() - began)
        for shift, bound in zip(_SHIFTS, findings.bounds, strict=True):
            angle, method = findings.cone.plain_angle(shift)
            plain = -1.0 if method == "none" else math.cos(angle)
            paper = paper_bound(findings.score.lower, shift)
            found[shift].append((plain, bound.bound, bound.served_bound, paper))
    lanes.close()
    rows = [
        Row(shift, *(statistics.median(column) for column in zip(*values, strict=True)))
        for shift, values in found.items()
    ]
    _print(rows, len(pictures), sigma, samples, statistics.median(seconds))


def _print(rows: list[Row], pictures: int, sigma: float, samples: int, seconds: float) -> None:
    title = f"{pictures} pictures, sigma {sigma:g}, n {samples}; medians"
    table = Table("epsilon/sigma", "closed forms", "bound", "served", "paper", title=title)
    for row in rows:
        figures = (row.closed_forms, row.bound, row.served_bound, row.paper)
        table.add_row(f"{row.shift:g}", *("-" if f <= -1 else f"{f:.4f}" for f in figures))
    Console().print(table)
    summary = {"bench": "bounds", "pictures": pictures, "sigma": sigma, "samples": samples}
    summary |= {"statistics_s": seconds, "rows": [asdict(row) for row in rows]}
    sys.stdout.write(json.dumps(summary) + "\n")
