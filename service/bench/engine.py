"""What serving costs: samples a second that certificates used, against the bare loop.

The bare loop draws noise and runs the pipeline in the same lanes, at its best batch size, and does
nothing with the features. It and the served loads take turns, round after round, in one process, so
that a slow moment of the machine falls on all of them; each figure is the median over rounds.

    load     many pictures at once, all samples of each spent
    lone     one picture of 1000 estimation samples, alone
    target   many pictures that stop at the default target; what was drawn in vain is not served

What the pipeline itself is made of is measured apart, at the end (`service.bench.parts`).
"""

import json
import os
import statistics
import sys
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track
from rich.table import Table

from service import __version__, admission
from service.bench.parts import PARTS, parts_ms
from service.config import Settings
from service.fleet import Fleet
from service.job import Job, JobResult
from service.metrics import PHASES, Metrics
from service.models.catalogue import load_models
from service.models.lanes import Lanes
from service.models.loaded import LoadedModel
from service.models.noise import SEED_BYTES, add_noise
from service.pictures.files import read_picture
from service.types import EmbedRequest, NoiseLevel, SamplingPlan, Stage

_BATCHES = (4, 8, 16, 32)
_PART_ROUNDS = 20
_TOGETHER = 16  # pictures in flight under load
_SEED = bytes(SEED_BYTES)


@dataclass(frozen=True, slots=True)
class Load:
    """One served load of one round.

    Attributes:
        samples: that certificates used.
        seconds: from the first submission to the last answer.
        drawn: samples computed, those in vain among them.
        fill: share of the batches' rows that were not padding.
        shares: of the lanes' time, by phase; the statistics run beside them.
    """

    samples: int
    seconds: float
    drawn: int
    fill: float
    shares: dict[str, float]

    @property
    def rate(self) -> float:
        """Served samples a second."""
        return self.samples / self.seconds


class _Served:
    """The real engine under real jobs, measured by its own metrics."""

    def __init__(
        self, models: dict[str, LoadedModel], pictures: Sequence[NDArray[np.uint8]]
    ) -> None:
        self.metrics = Metrics(__version__)
        self._fleet = Fleet([models], self.metrics)
        self._model = next(iter(models.values()))
        self._pictures = pictures
        self._fleet.start()

    def close(self) -> None:
        self._fleet.stop()

    def run(self, plan: SamplingPlan, count: int, together: int) -> Load:
        """Answer `count` pictures, `together` at a time."""
        before = self._read()
        began = time.perf_counter()
        results: list[JobResult] = []
        waiting: deque[Job] = deque()
        for i in range(count):
            if len(waiting) == together:
                results.append(waiting.popleft().future.result())
            job = Job(
                model=self._model.name,
                image=self._pictures[i % len(self._pictures)],
                plan=plan,
                seed=os.urandom(SEED_BYTES),
                submitted=time.monotonic(),
            )
            self._fleet.submit([job])
            waiting.append(job)
        results += [job.future.result() for job in waiting]
        seconds = time.perf_counter() - began
        self._fleet.wait_idle(10)
        after = self._read()
        used = sum(
            plan.clean + plan.selection + r.verdict.findings.samples for r in results if r.verdict
        )
        spent = {name: after[name] - before[name] for name in after}
        lanes = self._model.lanes * seconds
        return Load(
            samples=used,
            seconds=seconds,
            drawn=int(spent["samples"]),
            fill=spent["samples"] / (spent["batches"] * self._model.batch_size),
            shares={phase: spent[phase] / lanes for phase in PHASES if phase != "decode"},
        )

    def _read(self) -> dict[str, float]:
        def value(name: str, **labels: str) -> float:
            return self.metrics.registry.get_sample_value(name, labels) or 0.0

        stages = [stage.name.lower() for stage in Stage]
        found = {phase: value("fcs_phase_seconds_total", phase=phase) for phase in PHASES}
        found["batches"] = value("fcs_batch_samples_count")
        found["samples"] = sum(value("fcs_samples_total", stage=stage) for stage in stages)
        return found


def run(settings: Settings, files: Sequence[Path], rounds: int, samples: int) -> None:
    """Measure, print the table, then one JSON line.

    Args:
        settings: of the model and its device.
        files: pictures to embed; without any, a smooth synthetic one.
        rounds: at least 3.
        samples: of each load and round, about.
    """
    models = load_models(settings)[0]
    model = next(iter(models.values()))
    pictures = [read_picture(f, model.preprocessing, settings.max_pixels) for f in files]
    pictures = pictures or [_synthetic(model)]
    request = EmbedRequest(images=(b"",))
    early = admission.plan(request, model.sigmas, settings, model.clean_samples)
    fixed = admission.plan(
        EmbedRequest(images=(b"",), samples=400, target=None),
        model.sigmas,
        settings,
        model.clean_samples,
    )
    lone = admission.plan(
        EmbedRequest(images=(b"",), samples=1000, target=None),
        model.sigmas,
        settings,
        model.clean_samples,
    )
    lanes, served = Lanes(model.lanes), _Served(models, pictures)
    try:
        served.run(fixed, 2, 2)
        bare: dict[int, list[float]] = {batch: [] for batch in _BATCHES}
        loads, lones, targets = [], [], []
        count = max(1, samples // (1 + fixed.selection + fixed.estimation))
        for _ in _rounds(rounds):
            for batch, rates in bare.items():
                calls = max(1, samples // (4 * batch * lanes.count))
                rates.append(_bare(model, lanes, pictures[0], batch, calls))
            loads.append(served.run(fixed, count, _TOGETHER))
            lones.append(served.run(lone, 1, 1))
            targets.append(served.run(early, 2 * count, _TOGETHER))
    finally:
        served.close()
        lanes.close()
    best = max(bare, key=lambda batch: statistics.median(bare[batch]))
    found = {"load": loads, "lone": lones, "target": targets}
    _print(model, best, bare[best], found, parts_ms(model, pictures[0], _PART_ROUNDS))


def _rounds(count: int) -> Iterator[int]:
    yield from track(range(count), "rounds", console=Console(stderr=True))


def _bare(
    model: LoadedModel, lanes: Lanes, picture: NDArray[np.uint8], batch: int, calls: int
) -> float:
    """Samples a second of the loop that only draws noise and runs the pipeline."""
    noise = NoiseLevel(model.sigmas[0])
    told = torch.full((batch,), noise.sigma)

    def call(first: int, end: int) -> None:
        levels = np.empty((batch, *picture.shape), np.float32)
        for row in range(end - first):
            levels[row] = add_noise(picture, noise, _SEED, Stage.SELECT, first + row)
        model.pipeline(torch.from_numpy(levels), told).cpu()

    total = batch * calls * lanes.count
    began = time.perf_counter()
    lanes.run(call, total, batch)
    return total / (time.perf_counter() - began)


def _synthetic(model: LoadedModel) -> NDArray[np.uint8]:
    height, width = model.preprocessing.size
    rows, columns = np.mgrid[0:height, 0:width] / max(height, width)
    waves = [np.sin(9 * rows + 5 * columns), np.cos(7 * columns), np.sin(12 * rows * columns)]
    return np.stack([(127.5 + 120 * wave).astype(np.uint8) for wave in waves])


def _print(
    model: LoadedModel,
    batch: int,
    bare: list[float],
    loads: dict[str, list[Load]],
    parts: dict[str, float],
) -> None:
    reference = statistics.median(bare)
    rows = {name: _row(found, bare) for name, found in loads.items()}
    table = Table(
        "load", "samples/s", "of bare", "fill", "in vain", *PHASES[1:], "idle", title=model.name
    )
    table.add_row("bare loop", f"{reference:.1f}", "1", *[""] * 7)
    for name, row in rows.items():
        shares = [f"{row['shares'][phase]:.3f}" for phase in PHASES[1:]]
        figures = [f"{row[key]:.3f}" for key in ("ratio", "fill", "in_vain")]
        idle = f"{row['shares']['idle']:.3f}"
        table.add_row(name, f"{row['samples_per_s']:.1f}", *figures, *shares, idle)
    Console().print(table)
    told = ", ".join(f"{part} {parts[part]:.2f}" for part in PARTS)
    Console().print(
        f"a sample in one lane, ms: {told};"
        f" {parts['times_encoder']:.2f} times one without purifier and mapper"
    )
    summary = {
        "bench": "engine",
        "model": asdict(model.info)["name"],
        "lanes": model.lanes,
        "batch_size": model.batch_size,
        "bare_batch_size": batch,
        "rounds": len(bare),
        "bare_samples_per_s": reference,
        "served_samples_per_s": rows["load"]["samples_per_s"],
        "ratio": rows["load"]["ratio"],
        "fill": rows["load"]["fill"],
        "lone_ratio": rows["lone"]["ratio"],
        "rows": rows,
        "parts_ms": parts,
    }
    sys.stdout.write(json.dumps(summary) + "\n")


def _row(loads: list[Load], bare: list[float]) -> dict[str, Any]:
    def median(values: Iterator[float]) -> float:
        return statistics.median(values)

    shares = {phase: median(load.shares[phase] for load in loads) for phase in PHASES[1:]}
    shares["idle"] = 1 - shares["noise"] - shares["encode"]
    return {
        "samples_per_s": median(load.rate for load in loads),
        "ratio": median(load.rate / rate for load, rate in zip(loads, bare, strict=True)),
        "fill": median(load.fill for load in loads),
        "in_vain": median(1 - load.samples / load.drawn for load in loads),
        "shares": shares,
    }
