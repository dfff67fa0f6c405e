"""The statistics thread: block eigenvalues, and a look at each checkpoint of each job.

Blocks and marks of a job are taken in the order of its samples, so that a verdict depends on them
alone, never on timing. The device thread waits only when this one is far behind.
"""

import logging
import threading
import time
from collections import deque
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from contextlib import nullcontext, suppress

from service import tracing
from service.caller import calling
from service.certificate.blocks import Block, measure
from service.certificate.evidence import Mark
from service.certificate.sequential import Verdict
from service.errors import Kind, ServiceError
from service.job import JobResult, Work
from service.metrics import SHIFTS, Metrics
from service.types import Fidelity

_log = logging.getLogger(__name__)
# Full blocks that may wait: they are the bulk of a job's memory.
_MOST_BLOCKS_WAITING = 8


class Statistics:
    """One worker for all jobs of an engine.

    Args:
        metrics: told of every verdict.
    """

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._worker = ThreadPoolExecutor(1, "fcs-statistics")
        self._blocks: deque[Future[None]] = deque()
        self._waiting = threading.Lock()

    def take(self, work: Work, found: Block | Mark) -> None:
        """Queue a full block or a checkpoint; never waits."""
        if isinstance(found, Mark):
            self._worker.submit(self._look, work, found)
        else:
            self._blocks.append(self._worker.submit(self._absorb, work, found))

    def wait_for_room(self) -> None:
        """Wait while full blocks pile up (device threads)."""
        with self._waiting:
            while len(self._blocks) > _MOST_BLOCKS_WAITING:
                with suppress(CancelledError):  # the service is shutting down
                    self._blocks.popleft().result()

    def close(self) -> None:
        """End the thread after what it is doing now."""
        self._worker.shutdown(cancel_futures=True)

    def _absorb(self, work: Work, block: Block) -> None:
        if work.abandoned:
            return
        began = time.monotonic()
        try:
            work.attempt.tally.absorb(measure(block))
            work.attempt.sequential.pass_block(block)
        except Exception as error:
            fail(work, error)
        self._spent(work, began)

    def _look(self, work: Work, mark: Mark) -> None:
        if work.abandoned:
            return
        began = time.monotonic()
        try:
            with tracing.span("statistics", {"fcs.samples": mark.samples}, work.job.span):
                verdict = work.attempt.sequential.look(mark)
            stopped = "no" if verdict is None else verdict.stopped
            work.job.note("look", {"fcs.samples": mark.samples, "fcs.stopped": stopped})
            if verdict is None:
                # First: the device need not wait for what a listener is told.
                work.attempt.continue_past_look()
                work.resume()
                if work.job.on_look is not None:
                    work.attempt.tell(work.job.on_look, work.attempt.sequential.so_far(mark))
                self._spent(work, began)
                return
            fidelity = work.attempt.tally.fidelity
            self._observe(verdict)
            self._spent(work, began)
            answer(work, verdict, fidelity)
        except Exception as error:
            fail(work, error)

    def _spent(self, work: Work, began: float) -> None:
        seconds = time.monotonic() - began
        work.job.statistics_s += seconds
        self._metrics.phase_seconds.labels(phase="statistics").inc(seconds)

    def _observe(self, verdict: Verdict) -> None:
        for shift in SHIFTS:
            bound = verdict.findings.bound_at(shift)
            self._metrics.bound.labels(shift=str(shift)).observe(bound)
        self._metrics.early_stops.labels(reason=verdict.stopped).inc()


def answer(work: Work, verdict: Verdict | None, fidelity: Fidelity | None) -> None:
    """Resolve a job whose samples are all there, or were enough."""
    job, attempt = work.job, work.attempt
    job.succeed(
        JobResult(
            embedding=attempt.tally.embedding,
            norms=attempt.norms,
            verdict=verdict,
            fidelity=fidelity,
            queue_s=(job.started or job.submitted) - job.submitted,
            device_s=job.device_s,
            statistics_s=job.statistics_s,
            model=attempt.model,
            watch=attempt.watch,
        )
    )


def fail(work: Work, error: Exception) -> None:
    """Tell a job's own waiter; what is not a `ServiceError` is logged and told as internal."""
    if work.abandoned:  # its caller left meanwhile and its tally was released: no fault
        return
    if isinstance(error, ServiceError):
        work.job.fail(error)
        return
    with nullcontext() if work.job.caller is None else calling(work.job.caller):
        _log.error("a job failed", exc_info=error)
    work.job.fail(
        ServiceError(Kind.INTERNAL, f"this picture could not be computed: {type(error).__name__}")
    )
