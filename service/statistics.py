"""The statistics thread: block eigenvalues, and a look at each checkpoint of each job.

Blocks and marks of a job are taken in the order of its samples, so that a verdict depends on them
alone, never on timing. The device thread waits only when this one is far behind.
"""

import logging
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

from service.certificate.blocks import Block, measure
from service.certificate.evidence import Mark
from service.certificate.sequential import Verdict
from service.errors import Kind, ServiceError
from service.job import Job, JobResult
from service.metrics import SHIFTS, Metrics

_log = logging.getLogger(__name__)
# Full blocks that may wait: they are the bulk of a job's memory.
_MOST_BLOCKS_WAITING = 8


class Statistics:
    """One worker for all jobs of an engine.

    Args:
        metrics: told of every verdict.
        go_on: called for a job whose look decided nothing.
    """

    def __init__(self, metrics: Metrics, go_on: Callable[[Job], None]) -> None:
        self._metrics = metrics
        self._go_on = go_on
        self._worker = ThreadPoolExecutor(1, "fcs-statistics")
        self._blocks: deque[Future[None]] = deque()

    def take(self, job: Job, found: Block | Mark) -> None:
        """Queue a full block or a checkpoint (device thread); wait when far behind."""
        if isinstance(found, Mark):
            self._worker.submit(self._look, job, found)
            return
        self._blocks.append(self._worker.submit(self._absorb, job, found))
        if len(self._blocks) > _MOST_BLOCKS_WAITING:
            self._blocks.popleft().result()

    def close(self) -> None:
        """End the thread after what it is doing now."""
        self._worker.shutdown(cancel_futures=True)

    def _absorb(self, job: Job, block: Block) -> None:
        if job.abandoned:
            return
        began = time.monotonic()
        try:
            job.tally.absorb(measure(block))
            job.sequential.pass_block(block)
        except Exception as error:
            fail(job, error)
        job.statistics_s += time.monotonic() - began

    def _look(self, job: Job, mark: Mark) -> None:
        if job.abandoned:
            return
        began = time.monotonic()
        try:
            verdict = job.sequential.look(mark)
            if verdict is None:
                self._go_on(job)  # first: the device need not wait for what a listener is told
                if job.on_look is not None:
                    job.on_look(job.sequential.so_far(mark))
                job.statistics_s += time.monotonic() - began
                return
            fidelity = job.tally.fidelity
            self._observe(verdict)
            job.statistics_s += time.monotonic() - began
            answer(job, verdict, fidelity)
        except Exception as error:
            fail(job, error)

    def _observe(self, verdict: Verdict) -> None:
        for shift in SHIFTS:
            bound = verdict.findings.bound_at(shift)
            self._metrics.bound.labels(shift=str(shift)).observe(bound)
        self._metrics.early_stops.labels(reason=verdict.stopped).inc()


def answer(job: Job, verdict: Verdict | None, fidelity: float | None) -> None:
    """Resolve a job whose samples are all there, or were enough."""
    queue_s = (job.started or job.submitted) - job.submitted
    job.succeed(
        JobResult(job.tally.embedding, verdict, fidelity, queue_s, job.device_s, job.statistics_s)
    )


def fail(job: Job, error: Exception) -> None:
    """Tell a job's own waiter; what is not a `ServiceError` is logged and told as internal."""
    if job.abandoned:  # its caller left meanwhile and its tally was released: no fault
        return
    if isinstance(error, ServiceError):
        job.fail(error)
        return
    _log.error("a job failed", exc_info=error)
    job.fail(
        ServiceError(Kind.INTERNAL, f"this picture could not be computed: {type(error).__name__}")
    )
