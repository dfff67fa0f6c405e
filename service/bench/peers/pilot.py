"""Before the servers start: how many samples peers must draw, and how many rows they compute best.

A server that cannot stop early has to fix its number of samples for all pictures in advance: the
smallest at which the target is certified on so large a share of them.
"""

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from service.bench.sampling import Features
from service.certificate.stopping import checkpoints
from service.config import Settings
from service.models.noise import add_noise
from service.models.store import load_model
from service.types import NoiseLevel, Stage

SHARE = 0.95
_ROWS = (4, 8, 16, 32)
_SAMPLES = 64  # of one measurement
_ROUNDS = 3
_SEED = bytes(16)

# Features of a picture -> the bound they prove; -1 if vacuous.
Bound = Callable[[Features], float]


@dataclass(frozen=True, slots=True)
class FixedSamples:
    """What a server without early stopping draws for every picture.

    Attributes:
        samples: estimation samples.
        share: of the pilot's pictures certified with them; below `SHARE` where no number up to the
            ceiling is enough, and `samples` is the ceiling.
    """

    samples: int
    share: float


def fixed_samples(
    pictures: Sequence[Features], bound: Bound, wanted: float, ceiling: int
) -> FixedSamples:
    """The smallest number with which `bound` reaches `wanted` on `SHARE` of the pictures.

    Candidates are the checkpoints of a request with this ceiling: where fcs-serve might stop.

    Args:
        pictures: at least `ceiling` estimation samples of each.
        bound: of one picture's features.
        wanted: the target.
        ceiling: most samples.
    """
    share = 0.0
    for count in checkpoints(ceiling):
        reached = sum(bound(_first(features, count)) >= wanted for features in pictures)
        share = reached / len(pictures)
        if share >= SHARE:
            return FixedSamples(count, share)
    return FixedSamples(ceiling, share)


def _first(features: Features, count: int) -> Features:
    return Features(features.clean, features.selection, features.estimation[:count])


def best_rows(settings: Settings, threads: int) -> tuple[int, float]:
    """(rows of one encoder call, milliseconds a sample with its noise), the fastest measured."""
    model = load_model(settings.model, settings)
    image = np.full((3, *model.preprocessing.size), 128, np.uint8)
    times: dict[int, list[float]] = {rows: [] for rows in _ROWS}
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        for _ in range(_ROUNDS + 1):
            for rows in _ROWS:
                began = time.perf_counter()
                for first in range(0, _SAMPLES, rows):
                    levels = np.empty((rows, *image.shape), np.float32)
                    for row in range(rows):
                        sigma = NoiseLevel(model.sigmas[0])
                        levels[row] = add_noise(image, sigma, _SEED, Stage.SELECT, first + row)
                    told = torch.full((rows,), model.sigmas[0])
                    model.pipeline(torch.from_numpy(levels), told)
                times[rows].append(1000 * (time.perf_counter() - began) / _SAMPLES)
    finally:
        torch.set_num_threads(before)
    medians = {rows: statistics.median(found[1:]) for rows, found in times.items()}
    best = min(medians, key=lambda rows: medians[rows])
    return best, medians[best]
