"""What happens to a request's pictures, as its caller may follow it: threads -> the event loop.

Looks arrive from the statistics thread, counts from the device thread; the caller is told on the
loop, in order, and never after the answer. Where certificates are recorded, `UntilRecorded` keeps
the last ones back until they are.
"""

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from functools import partial
from typing import Generic, TypeVar

from service.job import JobResult, Progress
from service.types import Accepted, BoundSoFar, Checkpoint, Drawn, Event, Look, SamplingPlan

Listener = Callable[[Event], None]

# Shortest time between two `Drawn` of one picture.
_DRAWN_EVERY_S = 0.1


T = TypeVar("T")


class UntilRecorded(Generic[T]):
    """A listener that keeps back each picture's last checkpoint, which states its certificate.

    Args:
        listener: told of everything else at once.
    """

    def __init__(self, listener: Callable[[T | Event], None]) -> None:
        self._listener = listener
        self._kept: dict[int, Checkpoint] = {}

    def __call__(self, event: T | Event) -> None:
        """Pass an event on, or keep it; of a picture that ran again, the newest."""
        if isinstance(event, Checkpoint) and event.stopped is not None:
            self._kept[event.index] = event
        else:
            self._listener(event)

    def release(self) -> None:
        """The certificates are on record: tell what was kept."""
        for event in self._kept.values():
            self._listener(event)


class Following:
    """One request, followed; made and closed on the event loop.

    Args:
        plan: of all its pictures.
        listener: called on the event loop; must not block.
    """

    def __init__(self, plan: SamplingPlan, listener: Listener) -> None:
        self._plan = plan
        self._listener = listener
        self._loop = asyncio.get_running_loop()
        self._closed = False

    def accepted(self) -> None:
        """Say that the work is under way."""
        self._tell(Accepted())

    def close(self) -> None:
        """The answer is there, or never will be: nothing is told from here on."""
        self._closed = True

    def on_look(self, index: int) -> Callable[[Look], None] | None:
        """For `Job.on_look` of a picture; None where no look but the last may state a bound."""
        if self._plan.target is None:
            return None
        return partial(self._look, index)

    def on_progress(self, index: int, progress: Progress | None) -> Progress | None:
        """For `Job.progress` of a picture, the caller's own included.

        Counts are told only where there are no checkpoints to tell as much.
        """
        if self._plan.target is not None:
            return progress
        return _Counted(index, self._plan, self._hand_over, progress)

    def on_finish(self, index: int) -> "Callable[[Future[JobResult]], None]":
        """For the future of a picture: its last checkpoint."""
        return partial(self._finished, index)

    def _look(self, index: int, look: Look) -> None:
        plan = self._plan
        self._hand_over(
            Checkpoint(
                index, plan.selection, look.samples, look.bounds, plan.target, look.reached, None
            )
        )

    def _finished(self, index: int, future: "Future[JobResult]") -> None:
        if future.cancelled() or future.exception() is not None:
            return
        verdict, plan = future.result().verdict, self._plan
        if verdict is None:
            return
        # Of the looks at these very samples: what was told before a picture started over was of
        # another embedding.
        bounds = tuple(
            BoundSoFar(b.radius, max(b.bound, verdict.before.get(b.radius, -1.0)))
            for b in verdict.findings.bounds
        )
        reached, target = None, plan.target
        if target is not None:
            reached = any(b.radius == target.radius and b.bound >= target.bound for b in bounds)
        self._hand_over(
            Checkpoint(
                index,
                plan.selection,
                verdict.findings.samples,
                bounds,
                plan.target,
                reached,
                verdict.stopped,
            )
        )

    def _hand_over(self, event: Event) -> None:
        """From any thread."""
        with suppress(RuntimeError):  # the loop has ended, and its caller with it
            self._loop.call_soon_threadsafe(self._tell, event)

    def _tell(self, event: Event) -> None:
        if not self._closed:
            self._listener(event)


class _Counted:
    """Counts of one picture's samples -> `Drawn`, not too often; on the device thread."""

    def __init__(
        self, index: int, plan: SamplingPlan, hand_over: Listener, progress: Progress | None
    ) -> None:
        self._index = index
        self._plan = plan
        self._hand_over = hand_over
        self._progress = progress
        self._count = 0
        self._next = 0.0

    def __call__(self, count: int) -> None:
        if self._progress is not None:
            self._progress(count)
        self._count += count
        now = time.monotonic()
        if now < self._next:
            return
        self._next = now + _DRAWN_EVERY_S
        plan = self._plan
        clean = plan.clean if plan.certify else 0
        planned = plan.estimation if plan.certify else 0
        selection = min(max(self._count - clean, 0), plan.selection)
        estimation = min(max(self._count - clean - plan.selection, 0), planned)
        self._hand_over(Drawn(self._index, selection, estimation, plan.selection, planned))
