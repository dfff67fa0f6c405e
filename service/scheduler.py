"""Jobs -> the next batch of sample slices: pure, outcome-blind, no torch, no clock, no threads.

Within a priority a newcomer's first slice goes ahead of long work, then running jobs take turns of
one quantum each, so that a batch holds samples of many requests and a long certificate cannot
starve a short one. A batch serves one model. The caller holds the lock.
"""

from collections import deque
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from service.types import Stage

FIRST_SLICE = 64
_TURNS_PER_BATCH = 2


class Schedulable(Protocol):
    """What the scheduler knows of a job."""

    @property
    def model(self) -> str:
        """Name of the model its samples run through."""

    @property
    def priority(self) -> int:
        """Higher goes first."""

    @property
    def abandoned(self) -> bool:
        """Nobody waits for it any more: it failed, or its caller left."""

    @property
    def remaining(self) -> int:
        """Samples that may be handed out now; at 0 the job leaves the queue."""

    def take(self, limit: int) -> list[tuple[Stage, int, int]]:
        """Hand out up to `limit` samples as (stage, first index, count)."""


J = TypeVar("J", bound=Schedulable)


@dataclass(frozen=True, slots=True)
class Slice(Generic[J]):
    """Samples first ... first + count - 1 of one stage of one job."""

    job: J
    stage: Stage
    first: int
    count: int


@dataclass(slots=True)
class _Queue(Generic[J]):
    """Jobs of one priority; `fresh` are within their first slice, with the samples left of it."""

    fresh: deque[tuple[J, int]]
    running: deque[J]


class Scheduler(Generic[J]):
    """The queue of one engine."""

    def __init__(self, capacities: dict[str, int]) -> None:
        self._queues: dict[int, _Queue[J]] = {}
        self._capacities = dict(capacities)

    def resize(self, model: str, capacity: int) -> None:
        self._capacities[model] = capacity

    def expired(self, now: float) -> list[J]:
        return []

    def add(self, job: J) -> None:
        """Queue a new job at the end of its priority."""
        queue = self._queues.setdefault(job.priority, _Queue(deque(), deque()))
        queue.fresh.append((job, FIRST_SLICE))

    def resume(self, job: J) -> None:
        """Queue a job again that had left with nothing to hand out, behind those that run."""
        queue = self._queues.setdefault(job.priority, _Queue(deque(), deque()))
        if job not in queue.running and all(job is not j for j, _ in queue.fresh):
            queue.running.append(job)

    def next_batch(self, now: float) -> list[Slice[J]]:
        """Up to the model's capacity of samples, of one model; empty if nothing is queued.

        Args:
            capacities: the fixed batch size of each model.
        """
        capacities = self._capacities
        self._drop_abandoned()
        batch: list[Slice[J]] = []
        model = self._first_model()
        if model is None:
            return batch
        room = capacities[model]
        quantum = max(1, room // _TURNS_PER_BATCH)
        for priority in sorted(self._queues, reverse=True):
            queue = self._queues[priority]
            room -= self._serve_fresh(queue, model, room, batch)
            room -= self._serve_running(queue, model, room, quantum, batch)
        self._queues = {p: q for p, q in self._queues.items() if q.fresh or q.running}
        return _merged(batch)

    def _first_model(self) -> str | None:
        for priority in sorted(self._queues, reverse=True):
            queue = self._queues[priority]
            if queue.fresh:
                return queue.fresh[0][0].model
            if queue.running:
                return queue.running[0].model
        return None

    def _drop_abandoned(self) -> None:
        for queue in self._queues.values():
            queue.fresh = deque((job, left) for job, left in queue.fresh if not job.abandoned)
            queue.running = deque(job for job in queue.running if not job.abandoned)
        self._queues = {p: q for p, q in self._queues.items() if q.fresh or q.running}

    @staticmethod
    def _serve_fresh(queue: _Queue[J], model: str, room: int, batch: list[Slice[J]]) -> int:
        used = 0
        waiting: deque[tuple[J, int]] = deque()
        for job, left in queue.fresh:
            if job.model != model or used == room:
                waiting.append((job, left))
                continue
            taken = _take(job, min(left, room - used), batch)
            used += taken
            if not job.remaining:
                continue
            if left > taken:
                waiting.append((job, left - taken))
            else:
                queue.running.append(job)
        queue.fresh = waiting
        return used

    @staticmethod
    def _serve_running(
        queue: _Queue[J], model: str, room: int, quantum: int, batch: list[Slice[J]]
    ) -> int:
        used = 0
        others = 0
        while used < room and len(queue.running) > others:
            job = queue.running.popleft()
            if job.model != model:
                queue.running.append(job)
                others += 1
                continue
            used += _take(job, min(quantum, room - used), batch)
            others = 0
            if job.remaining:
                queue.running.append(job)
        return used


def _take(job: J, limit: int, batch: list[Slice[J]]) -> int:
    parts = [Slice(job, *part) for part in job.take(limit)]
    batch.extend(parts)
    return sum(part.count for part in parts)


def _merged(batch: list[Slice[J]]) -> list[Slice[J]]:
    """Neighbouring turns of one job as one slice."""
    merged: list[Slice[J]] = []
    for part in batch:
        last = merged[-1] if merged else None
        if (
            last is not None
            and last.job is part.job
            and last.stage is part.stage
            and last.first + last.count == part.first
        ):
            merged[-1] = Slice(part.job, part.stage, last.first, last.count + part.count)
        else:
            merged.append(part)
    return merged
