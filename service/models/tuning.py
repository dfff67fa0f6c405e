"""Threads, dtype, memory format and batch shape on a CPU: measured once a machine, then kept.

Candidates run as the engine runs them (every lane draws its rows' noise and calls the pipeline, all
lanes at once) and in turn, round after round, so that a slow moment of the machine falls on all of
them. The package's own arrangement stands unless another is clearly faster: what is chosen becomes
part of the revision, and must not follow the noise of a shared machine.
"""

import copy
import logging
import statistics
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import numpy as np
import torch

from service.config import Settings
from service.models.arrangement import DTYPES, MEMORY_FORMATS, Space, available_cores, space
from service.models.lanes import Lanes
from service.models.noise import SEED_BYTES, add_noise
from service.models.packages import Manifest
from service.models.pipeline import Parts, Pipeline
from service.models.platform import describe
from service.models.tuning_cache import Kept, TuningCache
from service.types import (
    Arrangement,
    DtypeName,
    MemoryFormat,
    NoiseLevel,
    Preprocessing,
    Stage,
    Tuning,
    TuningSource,
)

_log = logging.getLogger(__name__)
# Part of the cache's key: raised when another choice might come out.
_VERSION = 1
BUDGET_S = 8.0
# One measurement of the package's own that takes more of the budget leaves no room for others.
_SLOW_SHARE = 1 / 20
# A challenger must win every round, and take less than this share of the time in the median.
_ROUNDS = 6
_FASTER = 0.9
_UNMEASURED = "not measured yet: fcs serve and fcs models prepare do"
_NOISE = NoiseLevel(0.25)
_SEED = bytes(SEED_BYTES)

Measure = Callable[[Arrangement], float]  # seconds a sample
Clock = Callable[[], float]


@dataclass(frozen=True, slots=True)
class Choice:
    """An arrangement and where it comes from."""

    arrangement: Arrangement
    tuning: Tuning


def arrange(
    parts: Parts, manifest: Manifest, device: torch.device, settings: Settings, measure: bool
) -> Choice:
    """The arrangement for a model on this machine: pinned, kept, measured or the package's own.

    Args:
        parts: on the CPU in float32; not changed.
        manifest: of its package.
        device: where it will run; nothing is measured but on a CPU.
        settings: pins, and where measurements are kept.
        measure: now, if nothing is kept; else the package's own serves.
    """
    spaces, cache = _setting(manifest, device, settings)
    found = _known(spaces, cache, device, settings)
    if found is not None:
        return found
    if not measure:
        return _package(spaces, _UNMEASURED)
    _log.info("measuring how %s runs best here, %g s at most, once", manifest.name, BUDGET_S)
    samples = spaces.own.batch_size * spaces.own.lanes
    try:
        with _Bench(parts, manifest.preprocessing.value(), samples) as bench:
            chosen = choose(spaces, bench.seconds_per_sample, BUDGET_S)
    except Exception as error:  # if the model itself is broken, the engine's warm-up will tell
        _log.warning("measuring %s failed: %s", manifest.name, error)
        return _package(spaces, f"measuring failed: {error}")
    notes = []
    try:
        chosen = cache.keep(chosen)
    except OSError as error:
        _log.warning("the arrangement cannot be kept, each start measures anew: %s", error)
        notes = ["could not be kept"]
    note = "; ".join([chosen.note, *notes] if chosen.note else notes)
    source: TuningSource = "package" if chosen.note else "measured"
    return Choice(chosen.arrangement, Tuning(source, chosen.ms_per_sample, note))


def known(manifest: Manifest, device: torch.device, settings: Settings) -> Choice:
    """The same without an encoder, measuring nothing."""
    spaces, cache = _setting(manifest, device, settings)
    return _known(spaces, cache, device, settings) or _package(spaces, _UNMEASURED)


def _setting(
    manifest: Manifest, device: torch.device, settings: Settings
) -> tuple[Space, TuningCache]:
    cores = available_cores()
    spaces = space(manifest.batch_size, settings, device, cores)
    circumstances = {
        "version": _VERSION,
        "weights": manifest.encoder.sha256,
        **manifest.digests,
        "size": list(manifest.preprocessing.value().size),
        "batch_size": manifest.batch_size,
        "platform": describe("cpu"),
        "cores": cores,
        "pins": settings.model_dump(include=set(Arrangement.__slots__)),
    }
    return spaces, TuningCache(settings.cache_dir / "tuning", circumstances, spaces)


def _known(
    spaces: Space, cache: TuningCache, device: torch.device, settings: Settings
) -> Choice | None:
    """What can be told without measuring, if anything can."""
    if spaces.pinned:
        return Choice(spaces.own, Tuning("pinned"))
    if device.type != "cpu":
        return _package(spaces, f"nothing is measured on {device.type}")
    if not settings.tune:
        return _package(spaces, "tune is off")
    if spaces.size == 1:
        return _package(spaces, "there is no other")
    if (kept := cache.read()) is not None:
        return Choice(kept.arrangement, Tuning("cached", kept.ms_per_sample, kept.note))
    return None


def _package(spaces: Space, why: str) -> Choice:
    return Choice(spaces.own, Tuning("package", None, why))


def choose(
    spaces: Space, seconds_per_sample: Measure, budget_s: float, clock: Clock = time.monotonic
) -> Kept:
    """The package's own, or what is clearly faster.

    Dtype, memory format, lanes and threads are compared first, batch sizes then in the best.

    Args:
        spaces: to choose from.
        seconds_per_sample: measures an arrangement once; the first time may take longer.
        budget_s: no measurement begins after this many seconds.
        clock: seconds.
    """
    until = clock() + budget_s
    own = spaces.own
    seconds_per_sample(own)  # warm
    began = clock()
    seconds = defaultdict(list, {own: [seconds_per_sample(own)]})
    best: Arrangement | None = None
    if clock() - began < budget_s * _SLOW_SHARE:
        layout = _race(spaces.layouts(), seconds, seconds_per_sample, lambda: clock() < until)
        if layout is not None:
            sizes = spaces.batches(layout)
            best = _race(sizes, seconds, seconds_per_sample, lambda: clock() < until)
    note = "" if best else f"too slow, or the machine too busy, to compare in {budget_s:g} s"
    return Kept(best or own, 1000 * statistics.median(seconds[best or own]), note)


def _race(
    candidates: list[Arrangement],
    seconds: dict[Arrangement, list[float]],
    seconds_per_sample: Measure,
    in_time: Callable[[], bool],
) -> Arrangement | None:
    """The fastest that was faster than the first in every round, or the first; None: no time.

    Args:
        candidates: the first is the incumbent.
        seconds: every measurement is added here.
        seconds_per_sample: measures.
        in_time: whether another measurement may begin.
    """
    incumbent, *challengers = candidates
    shares: dict[Arrangement, list[float]] = {one: [] for one in challengers}
    for turn in range(_ROUNDS + 1):
        if not challengers:
            return incumbent
        taken = {}
        for one in (incumbent, *challengers):
            if not in_time():
                return None
            taken[one] = seconds_per_sample(one)
        if turn == 0:  # it also made the pipelines, threads and kernels of a new shape
            continue
        for one, measured in taken.items():
            seconds[one].append(measured)
        for one in challengers:
            shares[one].append(taken[one] / taken[incumbent])
        challengers = [one for one in challengers if shares[one][-1] < 1]
    fastest = min(challengers, key=lambda one: statistics.median(shares[one]), default=incumbent)
    clearly = fastest in challengers and statistics.median(shares[fastest]) < _FASTER
    return fastest if clearly else incumbent


class _Bench:
    """Runs arrangements of one model; its pipelines and lanes live until it is left.

    Args:
        parts: copied for each dtype and memory format.
        preprocessing: of the model.
        samples: of one measurement, if that is a call in each lane: the same work for all.
    """

    def __init__(self, parts: Parts, preprocessing: Preprocessing, samples: int) -> None:
        self._parts, self._preprocessing, self._samples = parts, preprocessing, samples
        self._picture = np.full((3, *preprocessing.size), 128, np.uint8)
        self._pipelines: dict[tuple[DtypeName, MemoryFormat], Pipeline] = {}
        self._lanes: dict[tuple[int, int], Lanes] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for lanes in self._lanes.values():
            lanes.close()

    def seconds_per_sample(self, arrangement: Arrangement) -> float:
        """One measurement: the lanes' rates added up, since none waits for another."""
        pipeline = self._pipeline(arrangement)
        size = arrangement.batch_size
        sigmas = torch.full((size,), _NOISE.sigma)
        calls = max(self._samples // (size * arrangement.lanes), 1)
        together = threading.Barrier(arrangement.lanes)

        def lane(_first: int, _end: int) -> float:
            together.wait()
            began = time.perf_counter()
            for _ in range(calls):
                levels = np.empty((size, *self._picture.shape), np.float32)
                for row in range(size):
                    levels[row] = add_noise(self._picture, _NOISE, _SEED, Stage.SELECT, row)
                pipeline(torch.from_numpy(levels), sigmas).cpu()
            return time.perf_counter() - began

        seconds = self._shared(arrangement).run(lane, arrangement.lanes, 1)
        return 1 / sum(calls * size / taken for taken in seconds)

    def _pipeline(self, a: Arrangement) -> Pipeline:
        key = (a.dtype, a.memory_format)
        if key not in self._pipelines:
            self._pipelines[key] = Pipeline(
                copy.deepcopy(self._parts),
                self._preprocessing,
                torch.device("cpu"),
                DTYPES[a.dtype],
                MEMORY_FORMATS[a.memory_format],
            )
        return self._pipelines[key]

    def _shared(self, a: Arrangement) -> Lanes:
        key = (a.lanes, a.threads)
        if key not in self._lanes:
            self._lanes[key] = Lanes(a.lanes, a.threads)
        return self._lanes[key]
