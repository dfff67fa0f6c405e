"""How many samples a target takes: the pursuit, the cone of events A, B, C, and the paper.

All columns see the same samples of the same pictures. The cone and the paper are given all of alpha
at every checkpoint, which no honest early stop could have: they are ahead of what is fair.
"""

import json
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.progress import track
from rich.table import Table
from threadpoolctl import threadpool_limits

from service.bench.sampling import Features, sample
from service.certificate.blocks import measure
from service.certificate.bounds import paper_bound
from service.certificate.certify import cone_of
from service.certificate.evidence import Mark
from service.certificate.intervals import betting_lower
from service.certificate.sequential import Sequential
from service.certificate.stopping import checkpoints
from service.certificate.tally import Tally
from service.config import Settings
from service.models.lanes import Lanes
from service.models.store import load_model
from service.types import NoiseLevel, SamplingPlan, Target


@dataclass(frozen=True, slots=True)
class Row:
    """One shift: median samples (None: more than the ceiling) and pictures certified at all."""

    shift: float
    pursuit: float | None
    pursuit_certified: int
    cone: float | None
    cone_certified: int
    paper_certified: int
    paper_bound_in_the_limit: float
    look_ms: float


@dataclass(frozen=True, slots=True)
class _Picture:
    pursuit: int | None
    cone: int | None
    paper: int | None
    limit: float
    looks_ms: list[float]


def run(
    settings: Settings,
    pictures: Sequence[Path],
    sigma: float,
    selection: int,
    ceiling: int,
    bound: float,
    shifts: Sequence[float],
) -> None:
    """Sample every picture once, pursue every target on it; print the medians, then JSON."""
    threadpool_limits(limits=1, user_api="blas")
    model = load_model(settings.model, settings)
    lanes = Lanes(model.lanes, model.threads)
    found: dict[float, list[_Picture]] = {shift: [] for shift in shifts}
    for path in track(pictures, "sampling", console=Console(stderr=True)):
        features = sample(model, lanes, path, settings, sigma, selection, ceiling)
        for shift in shifts:
            plan = SamplingPlan(
                noise=NoiseLevel(sigma),
                radii=(shift * sigma,),
                selection=selection,
                estimation=ceiling,
                confidence=settings.default_confidence,
                certify=True,
                priority=0,
                target=Target(shift * sigma, bound),
                checkpoints=checkpoints(ceiling),
            )
            found[shift].append(_picture(features, plan, shift, bound))
    lanes.close()
    rows = [_row(shift, values) for shift, values in found.items()]
    _print(rows, len(pictures), sigma, selection, ceiling, bound)


def _picture(features: Features, plan: SamplingPlan, shift: float, bound: float) -> _Picture:
    dimensions, alpha = features.clean.shape[1], 1 - plan.confidence
    tally = Tally(dimensions, plan.selection, plan.estimation, plan.checkpoints)
    sequential = Sequential(plan, tally)
    looks: list[float] = []
    pursuit = cone = paper = None
    pursuing = True
    gains = np.empty(0)
    for event in features.fill(tally):
        if not isinstance(event, Mark):
            tally.absorb(measure(event))
            if pursuing:
                sequential.pass_block(event)
            continue
        if pursuing:
            began = time.perf_counter()
            verdict = sequential.look(event)
            if verdict is None:  # the last look also makes the certificate
                looks.append(1000 * (time.perf_counter() - began))
            else:
                pursuing = False
                pursuit = event.samples if verdict.stopped == "target" else None
        evidence = tally.evidence(event)
        gains = (1 + evidence.reference_cosines) / 2
        if cone is None and cone_of(evidence, alpha).bound(shift)[0] >= bound:
            cone = event.samples
        if paper is None and paper_bound(betting_lower(gains, alpha), shift) >= bound:
            paper = event.samples
    return _Picture(pursuit, cone, paper, paper_bound(float(gains.mean()), shift), looks)


def _row(shift: float, pictures: list[_Picture]) -> Row:
    looks = [ms for picture in pictures for ms in picture.looks_ms]
    return Row(
        shift=shift,
        pursuit=_median([p.pursuit for p in pictures]),
        pursuit_certified=sum(p.pursuit is not None for p in pictures),
        cone=_median([p.cone for p in pictures]),
        cone_certified=sum(p.cone is not None for p in pictures),
        paper_certified=sum(p.paper is not None for p in pictures),
        paper_bound_in_the_limit=statistics.median(p.limit for p in pictures),
        look_ms=statistics.median(looks) if looks else 0.0,
    )


def _median(samples: list[int | None]) -> float | None:
    value = statistics.median(float("inf") if n is None else n for n in samples)
    return None if value == float("inf") else value


def _print(
    rows: list[Row], pictures: int, sigma: float, selection: int, ceiling: int, bound: float
) -> None:
    table = Table(
        "epsilon/sigma",
        "pursuit",
        "cone A, B, C",
        "paper",
        "paper, n = inf",
        "ms a look",
        title=f"median samples to certify {bound:g}; {pictures} pictures, sigma {sigma:g},"
        f" n0 {selection}, at most {ceiling}; in brackets: pictures certified",
    )
    for row in rows:
        table.add_row(
            f"{row.shift:g}",
            f"{_samples(row.pursuit, ceiling)} ({row.pursuit_certified})",
            f"{_samples(row.cone, ceiling)} ({row.cone_certified})",
            f"({row.paper_certified})",
            "-" if row.paper_bound_in_the_limit < 0 else f"{row.paper_bound_in_the_limit:.2f}",
            f"{row.look_ms:.1f}",
        )
    Console().print(table)
    summary = {"bench": "targets", "pictures": pictures, "sigma": sigma, "bound": bound}
    summary |= {"selection_samples": selection, "ceiling": ceiling}
    sys.stdout.write(json.dumps({**summary, "rows": [asdict(row) for row in rows]}) + "\n")


def _samples(median: float | None, ceiling: int) -> str:
    return f"> {ceiling}" if median is None else f"{median:g}"
