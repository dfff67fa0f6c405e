"""Which dtype, batch shape and thread arrangement: milliseconds a sample, noise included.

Configurations are visited in turn, round after round, so that a slow moment of the machine falls on
all of them; each figure is the median over rounds. "Busy" is the same with one other process
computing, as doors, decoding, statistics or a neighbour would.
"""

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass

import numpy as np
import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table

from service.config import Settings
from service.models.arrangement import available_cores
from service.models.devices import choose_device
from service.models.lanes import Lanes
from service.models.noise import SEED_BYTES, add_noise
from service.models.pipeline import Pipeline
from service.models.store import load_model
from service.types import NoiseLevel, Stage

_DTYPES = ("float32", "bfloat16")
_BATCHES = (4, 8, 16, 32)
_SEED = bytes(SEED_BYTES)
_WARM_UP = 2


@dataclass(frozen=True, slots=True)
class Arrangement:
    """How the cores share a batch: torch threads inside a call, or lanes of one thread each."""

    lanes: int
    threads: int

    @property
    def name(self) -> str:
        """As the table shows it."""
        return f"{self.lanes} lane(s)" if self.threads == 1 else f"{self.threads} threads"


@dataclass(frozen=True, slots=True)
class Row:
    """One configuration; medians in milliseconds a sample."""

    dtype: str
    arrangement: str
    batch: int
    encode_ms: float
    sample_ms: float
    busy_sample_ms: float


def run(settings: Settings, rounds: int) -> None:
    """Measure, print the table, then one JSON line."""
    settings = settings.model_copy(update={"tune": False})
    cores = available_cores()
    arrangements = [Arrangement(1, 1)]
    if choose_device(settings.device).type == "cpu" and cores > 1:
        arrangements += [Arrangement(1, cores), Arrangement(cores, 1)]
    pipelines = {
        dtype: load_model(settings.model, settings.model_copy(update={"dtype": dtype})).pipeline
        for dtype in _DTYPES
    }
    height, width = load_model(settings.model, settings).preprocessing.size
    picture = np.full((3, height, width), 128, np.uint8)
    keys = [(d, a, b) for d in _DTYPES for a in arrangements for b in _BATCHES]
    times: dict[tuple[str, Arrangement, int], list[list[float]]] = {k: [[], [], []] for k in keys}
    pools = {arrangement: Lanes(arrangement.lanes) for arrangement in arrangements}
    for busy in (False, True):
        with _neighbour() if busy else nullcontext():
            label = "busy machine" if busy else "quiet machine"
            for _ in track(range(rounds + _WARM_UP), label, console=Console(stderr=True)):
                for dtype, arrangement, batch in keys:
                    torch.set_num_threads(arrangement.threads)
                    lanes = pools[arrangement] if arrangement.threads == 1 else None
                    encode, sample = _measure(pipelines[dtype], picture, batch, lanes)
                    cell = times[dtype, arrangement, batch]
                    cell[2 if busy else 1].append(sample)
                    if not busy:
                        cell[0].append(encode)
    rows = [
        Row(d, a.name, b, *(statistics.median(t[_WARM_UP:]) for t in times[d, a, b]))
        for d, a, b in keys
    ]
    _print(rows, settings.model)


def _measure(
    pipeline: Pipeline, picture: np.ndarray, batch: int, lanes: Lanes | None
) -> tuple[float, float]:
    """Milliseconds a sample of the encoder alone, and of noise and encoder."""
    count = lanes.count if lanes else 1
    total = batch * count
    levels = np.empty((total, *picture.shape), np.float32)

    def noise(first: int, end: int) -> None:
        for i in range(first, end):
            levels[i] = add_noise(picture, NoiseLevel(0.25), _SEED, Stage.SELECT, i)

    def encode(first: int, end: int) -> None:
        told = torch.full((end - first,), 0.25)
        pipeline(torch.from_numpy(levels[first:end]), told).cpu()

    def all_rows(work: Callable[[int, int], None]) -> float:
        began = time.perf_counter()
        if lanes is None:
            work(0, total)
        else:
            lanes.run(work, total, batch)
        return 1000 * (time.perf_counter() - began) / total

    noise_ms = all_rows(noise)
    encode_ms = all_rows(encode)
    return encode_ms, noise_ms + encode_ms


@contextmanager
def _neighbour() -> Iterator[None]:
    """Another process that computes without a pause."""
    process = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        yield
    finally:
        process.kill()
        process.wait()


def _print(rows: list[Row], model: str) -> None:
    table = Table(
        "dtype", "arrangement", "batch", "encode", "noise+encode", "busy: noise+encode", title=model
    )
    for row in rows:
        figures = (row.encode_ms, row.sample_ms, row.busy_sample_ms)
        table.add_row(row.dtype, row.arrangement, str(row.batch), *(f"{f:.2f}" for f in figures))
    Console().print(table)
    best = min(rows, key=lambda row: row.sample_ms)
    summary = {"bench": "shapes", "model": model, "unit": "ms per sample", "best": asdict(best)}
    sys.stdout.write(json.dumps({**summary, "rows": [asdict(row) for row in rows]}) + "\n")
