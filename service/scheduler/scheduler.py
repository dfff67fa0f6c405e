"""Which model's turn it is, and whose time is over."""

import math
from collections.abc import Mapping
from typing import Generic

from service.scheduler.jobs import J, Slice
from service.scheduler.queue import GUARANTEED, ModelQueue


class Scheduler(Generic[J]):
    """The queue of one engine.

    A batch serves one model: of those whose highest priority is the highest, the one that has
    waited longest, so that they take turns; every eighth batch, the one that waited longest of all.

    A deadline ends a job, but buys it no rank: whoever asks for less time would go first.

    Args:
        capacities: the fixed batch size of each model, in samples.
    """

    def __init__(self, capacities: Mapping[str, int]) -> None:
        self._queues = {model: ModelQueue[J](size) for model, size in capacities.items()}
        self._batches = 0
        self._expired: list[J] = []
        self._earliest = math.inf  # no queued job's deadline is before it

    def __len__(self) -> int:
        """Queued jobs, with abandoned ones until their turn comes."""
        return sum(len(queue) for queue in self._queues.values())

    def resize(self, model: str, capacity: int) -> None:
        """Let a model's batches hold `capacity` samples from the next one on."""
        self._queues[model].capacity = capacity

    def add(self, job: J) -> None:
        """Queue a newcomer at the end of its priority; a queued job starts over as one.

        Raises:
            KeyError: its model has no capacity.
        """
        self._queue(job).add(job, self._batches)

    def resume(self, job: J) -> None:
        """Queue again a job that had left with nothing to hand out, behind those that run.

        Does nothing if it is queued.

        Raises:
            KeyError: its model has no capacity.
        """
        self._queue(job).resume(job, self._batches)

    def remove(self, job: J) -> None:
        """Take a job out of the queue, if it is there."""
        self._queues[job.model].remove(job)

    def expired(self, now: float) -> list[J]:
        """Drop the queued jobs whose deadline has passed; each is returned once.

        A job that has left the queue is not watched: its deadline counts when it is resumed.
        """
        self._drop_late(now)
        late, self._expired = self._expired, []
        return late

    def next_batch(self, now: float) -> list[Slice[J]]:
        """Up to the model's capacity of samples, of one model; empty if nothing is queued.

        Abandoned and late jobs get none; `expired` returns the late ones.

        Args:
            now: monotonic seconds.
        """
        self._drop_late(now)
        waiting = [queue for queue in self._queues.values() if queue.settle()]
        if not waiting:
            return []
        self._batches += 1
        if self._batches % GUARANTEED:
            highest = max(queue.priority for queue in waiting)
            waiting = [queue for queue in waiting if queue.priority == highest]
        queue = min(waiting, key=lambda queue: queue.waiting_since)
        queue.waiting_since = self._batches
        return queue.fill(self._batches)

    def ready(self, model: str) -> int:
        """Samples of a model that may be handed out now, counted up to its capacity."""
        return self._queues[model].ready

    def _queue(self, job: J) -> ModelQueue[J]:
        """Where a job is about to wait; its deadline is watched from now on."""
        queue = self._queues[job.model]
        if not queue:
            queue.waiting_since = self._batches
        self._earliest = min(self._earliest, job.deadline)
        return queue

    def _drop_late(self, now: float) -> None:
        if now < self._earliest:
            return
        for queue in self._queues.values():
            for job in [job for job in queue if job.deadline <= now]:
                queue.remove(job)
                if not job.abandoned:
                    self._expired.append(job)
        self._earliest = min(
            (job.deadline for queue in self._queues.values() for job in queue), default=math.inf
        )
