"""Which dtype, batch shape and thread count: milliseconds a sample of the bare parts, side by side.

Rows are visited in turn, round after round, so that a busy moment of the machine falls on all of
them; each figure is the median over rounds.
"""

import json
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass

import numpy as np
import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table

from service.config import Settings
from service.models.noise import SEED_BYTES, add_noise
from service.models.store import choose_device, load_model
from service.types import NoiseLevel, Stage

_DTYPES = (torch.float32, torch.bfloat16)
_BATCHES = (4, 8, 16, 32)
_THREADS = (1, 2)


@dataclass(frozen=True, slots=True)
class Row:
    """One configuration and its medians, milliseconds a sample."""

    dtype: str
    threads: int
    batch: int
    encode_ms: float
    noise_ms: float

    @property
    def serial_ms(self) -> float:
        """Noise and encoder one after the other."""
        return self.encode_ms + self.noise_ms

    @property
    def overlapped_ms(self) -> float:
        """Noise on a core of its own while the encoder runs."""
        return max(self.encode_ms, self.noise_ms)


def run(settings: Settings, rounds: int) -> None:
    """Measure, print the table, then one JSON line."""
    device = choose_device(settings.device)
    picture = np.full((3, *load_model(settings.model, settings).preprocessing.size), 128, np.uint8)
    noise = _timed(
        lambda i: add_noise(picture, NoiseLevel(0.25), bytes(SEED_BYTES), Stage.SELECT, i)
    )
    cells: dict[tuple[torch.dtype, int, int], list[float]] = {}
    pipelines = {
        dtype: load_model(
            settings.model,
            settings.model_copy(update={"dtype": str(dtype).removeprefix("torch.")}),
        ).pipeline
        for dtype in _DTYPES
    }
    for _ in track(range(rounds + 2), "measuring", console=Console(stderr=True)):
        for dtype in _DTYPES:
            for threads in _THREADS if device.type == "cpu" else _THREADS[:1]:
                torch.set_num_threads(threads)
                for batch in _BATCHES:
                    levels = torch.from_numpy(np.repeat(picture[None], batch, 0).astype(np.float32))
                    began = time.perf_counter()
                    pipelines[dtype](levels).cpu()
                    seconds = time.perf_counter() - began
                    cells.setdefault((dtype, threads, batch), []).append(1000 * seconds / batch)
    rows = [
        Row(str(dtype).removeprefix("torch."), threads, batch, statistics.median(times[2:]), noise)
        for (dtype, threads, batch), times in cells.items()
    ]
    _print(rows, settings.model)


def _timed(work: Callable[[int], object], repeats: int = 60) -> float:
    times = []
    for i in range(repeats):
        began = time.perf_counter()
        work(i)
        times.append(1000 * (time.perf_counter() - began))
    return statistics.median(times)


def _print(rows: list[Row], model: str) -> None:
    table = Table(
        "dtype",
        "threads",
        "batch",
        "encode ms",
        "noise ms",
        "serial ms",
        "overlapped ms",
        title=model,
    )
    for row in rows:
        figures = (row.encode_ms, row.noise_ms, row.serial_ms, row.overlapped_ms)
        table.add_row(row.dtype, str(row.threads), str(row.batch), *(f"{f:.2f}" for f in figures))
    Console().print(table)
    best = min(rows, key=lambda row: row.encode_ms)
    sys.stdout.write(
        json.dumps(
            {
                "bench": "shapes",
                "model": model,
                "best": asdict(best),
                "rows": [asdict(r) for r in rows],
            }
        )
        + "\n"
    )
