"""The real scheduler in front of devices that are a formula: a discrete-event simulation.

A batch of fixed shape takes launch + batch * sample seconds however few rows of it are used. Each
device has a scheduler of its own, up to `depth` batches taken from it and not yet computed, and one
statistics thread, where a job's looks wait for each other as in the service. A request goes to the
device with the fewest pending samples.
"""

import heapq
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from service.bench.workload import Request
from service.config import Settings
from service.scheduler import FIRST_SLICE, Scheduler, Slice
from service.types import Stage

_MODEL = "simulated"
# Batches over which the rates of jobs that run side by side are compared.
_WINDOW = 64


class Fate(Enum):
    """How a request ended."""

    ANSWERED = "answered"
    CANCELLED = "cancelled"
    EXPIRED = "expired"
    REJECTED = "rejected"


@dataclass(frozen=True, slots=True)
class DeviceModel:
    """One device and how its engine takes batches; times in seconds.

    Attributes:
        batch: samples in every batch, padding counted.
        prepare_s: from taking a batch to the earliest moment the device can start it.
        depth: batches taken and not yet computed, at most.
        look_s: one look at a checkpoint, in the statistics thread.
        late: a batch is taken just before the device would be idle, not as soon as one of `depth`
            is free.
        linger_s: an idle device waits so long for a batch to fill.
        ahead: rows that would be padding go to samples past the checkpoints that jobs wait for.
    """

    launch_s: float = 0.002
    sample_s: float = 0.0003
    batch: int = 256
    prepare_s: float = 0.01
    depth: int = 2
    look_s: float = 0.004
    late: bool = False
    linger_s: float = 0.0
    ahead: bool = False

    @property
    def batch_s(self) -> float:
        """Seconds of a batch."""
        return self.launch_s + self.batch * self.sample_s

    @property
    def rate(self) -> float:
        """Samples a second when every batch is full."""
        return self.batch / self.batch_s


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a request ended; `seconds` after its arrival."""

    request: Request
    fate: Fate
    seconds: float


@dataclass(slots=True, eq=False)
class _Job:
    """A request at its device, as the scheduler sees it."""

    request: Request
    device: "_Device"
    abandoned: bool = False
    handed: int = 0
    computed: int = 0
    looks_due: int = 0
    looks: int = 0

    @property
    def model(self) -> str:
        return _MODEL

    @property
    def priority(self) -> int:
        return self.request.priority

    @property
    def deadline(self) -> float:
        return self.request.deadline

    @property
    def outstanding(self) -> int:
        return self.request.kind.samples - self.handed

    @property
    def remaining(self) -> int:
        looks = self.request.kind.looks
        if not looks:
            return self.outstanding
        # Up to the checkpoint after the next one to be looked at, as in `service.job`.
        return max(0, looks[min(self.looks + 1, len(looks) - 1)] - self.handed)

    def take(self, limit: int) -> list[tuple[Stage, int, int]]:
        return self.hand(min(limit, self.remaining))

    def hand(self, count: int) -> list[tuple[Stage, int, int]]:
        part = (Stage.ESTIMATE, self.handed, count)
        self.handed += count
        self.device.pending -= count
        return [part]


@dataclass(slots=True, eq=False)
class _Device:
    """One device, its engine's scheduler, and what it has done so far."""

    scheduler: Scheduler[_Job]
    jobs: set[_Job] = field(default_factory=set)
    pending: int = 0  # samples accepted and not handed out
    in_flight: int = 0
    busy_until: float = 0.0
    looking_until: float = 0.0
    waiting_since: float = math.inf  # since when there is work that no batch has taken
    wakes: float = math.inf
    batches: int = 0
    rows: int = 0
    window: dict[_Job, int] = field(default_factory=dict)


class Simulation:
    """Devices that serve requests.

    Args:
        devices: how many, all of one kind.
        settings: limits of pending pictures and samples, per device.

    Attributes:
        now: seconds since the start.
        fairness: Jain's index (sum x)^2 / (n sum x^2) of the samples x that n >= 2 jobs of one kind
            and priority got of one device in a window of 64 batches, of those that had their first
            slice before it began, were never held, and were not through when it ended.
    """

    def __init__(self, model: DeviceModel, devices: int, settings: Settings | None = None) -> None:
        self.now = 0.0
        self.fairness: list[float] = []
        self._model = model
        self._settings = settings or Settings()
        self._devices = [_Device(Scheduler({_MODEL: model.batch})) for _ in range(devices)]
        self._events: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
        self._sequence = 0
        self._until_last_arrival = (0.0, 0)
        self._ended: list[Outcome] = []

    @property
    def fill(self) -> float:
        """Share of the rows computed that were not padding."""
        return sum(device.rows for device in self._devices) / max(1, self.rows)

    @property
    def rows(self) -> int:
        """Rows computed, padding among them."""
        return self._batches * self._model.batch

    @property
    def utilisation(self) -> float:
        """Share of the time up to the last arrival that the devices computed."""
        seconds, batches = self._until_last_arrival
        return batches * self._model.batch_s / max(seconds * len(self._devices), 1e-9)

    @property
    def _batches(self) -> int:
        return sum(device.batches for device in self._devices)

    def run(self, requests: Iterable[Request]) -> Iterator[Outcome]:
        """Serve requests, which come in order of arrival; each one's outcome, as it ends."""
        arrivals = iter(requests)
        self._await(arrivals)
        while self._events:
            self.now, _, happen, details = heapq.heappop(self._events)
            happen(*details)
            if happen == self._arrive:
                self._await(arrivals)
            yield from self._ended
            self._ended.clear()

    def _at(self, when: float, happen: Callable[..., None], *details: Any) -> None:
        if when < math.inf:
            self._sequence += 1
            heapq.heappush(self._events, (when, self._sequence, happen, details))

    def _await(self, arrivals: Iterator[Request]) -> None:
        if (request := next(arrivals, None)) is not None:
            self._at(request.arrives, self._arrive, request)

    def _arrive(self, request: Request) -> None:
        self._until_last_arrival = (self.now, self._batches)
        device = min(self._devices, key=lambda device: device.pending)
        if (
            len(device.jobs) >= self._settings.max_pending_pictures
            or device.pending + request.kind.samples > self._settings.max_pending_samples
        ):
            self._ended.append(Outcome(request, Fate.REJECTED, 0.0))
            return
        job = _Job(request, device)
        device.jobs.add(job)
        device.pending += job.outstanding
        device.scheduler.add(job)
        self._at(request.leaves, self._end, job, Fate.CANCELLED)
        self._at(request.deadline, self._expire, job)
        self._offer(device)

    def _expire(self, job: _Job) -> None:
        for late in job.device.scheduler.expired(self.now):
            self._end(late, Fate.EXPIRED)
        self._end(job, Fate.EXPIRED)  # held at a checkpoint, or in flight

    def _end(self, job: _Job, fate: Fate) -> None:
        if job.abandoned:
            return
        job.abandoned = True
        job.device.jobs.remove(job)
        job.device.pending -= job.outstanding
        self._ended.append(Outcome(job.request, fate, self.now - job.request.arrives))

    def _offer(self, device: _Device) -> None:
        """Let a device take the batches that it would take now."""
        while (when := self._takes(device)) <= self.now:
            slices = device.scheduler.next_batch(self.now)
            device.waiting_since = math.inf
            if not slices:
                return
            if self._model.ahead:
                slices += self._drawn_ahead(device, slices)
            self._compare(device)
            device.in_flight += 1
            device.batches += 1
            device.rows += sum(part.count for part in slices)
            starts = max(self.now + self._model.prepare_s, device.busy_until)
            device.busy_until = starts + self._model.batch_s
            self._at(device.busy_until, self._computed, device, slices)
        if when < device.wakes:
            device.wakes = when
            self._at(when, self._wake, device)

    def _drawn_ahead(self, device: _Device, slices: list[Slice[_Job]]) -> list[Slice[_Job]]:
        """Samples for the rows left over, of the jobs that are nearest to their next look."""
        room = self._model.batch - sum(part.count for part in slices)
        held = [job for job in device.jobs if job.request.kind.looks and job.outstanding]
        found: list[Slice[_Job]] = []
        for job in sorted(held, key=lambda job: (job.handed, job.request.arrives)):
            if count := min(room, job.outstanding):
                found += [Slice(job, *part) for part in job.hand(count)]
                room -= count
        return found

    def _takes(self, device: _Device) -> float:
        """When a device takes its next batch, as far as is known now."""
        model = self._model
        ready = device.scheduler.ready(_MODEL)
        if not ready:
            return math.inf
        device.waiting_since = min(device.waiting_since, self.now)
        if device.in_flight == model.depth:
            return math.inf
        when = device.busy_until - model.prepare_s if model.late else self.now
        if ready < model.batch:
            when = max(when, device.waiting_since + model.linger_s)
        return when

    def _wake(self, device: _Device) -> None:
        device.wakes = math.inf
        self._offer(device)

    def _computed(self, device: _Device, slices: list[Slice[_Job]]) -> None:
        device.in_flight -= 1
        for part in slices:
            job = part.job
            job.computed += part.count
            looks = job.request.kind.looks
            while job.looks_due < len(looks) and job.computed >= looks[job.looks_due]:
                job.looks_due += 1
                device.looking_until = max(self.now, device.looking_until) + self._model.look_s
                self._at(device.looking_until, self._looked, job)
            if not looks and job.computed == job.request.kind.stops:
                self._end(job, Fate.ANSWERED)
        self._offer(device)

    def _looked(self, job: _Job) -> None:
        if job.abandoned:
            return
        job.looks += 1
        if job.request.kind.looks[job.looks - 1] == job.request.kind.stops:
            self._end(job, Fate.ANSWERED)
        else:
            if job.remaining:
                job.device.scheduler.resume(job)
            self._offer(job.device)

    def _compare(self, device: _Device) -> None:
        """Every so many batches: how evenly were jobs that ran all the while served?"""
        if device.batches % _WINDOW:
            return
        got: dict[str, list[int]] = {}
        for job, handed in device.window.items():
            if not job.abandoned and job.outstanding:
                got.setdefault(job.request.kind.name, []).append(job.handed - handed)
        for x in got.values():
            if len(x) > 1 and any(x):
                self.fairness.append(sum(x) ** 2 / (len(x) * sum(v * v for v in x)))
        device.window = {
            job: job.handed
            for job in device.jobs
            if job.handed >= FIRST_SLICE and not job.priority and not job.request.kind.looks
        }
