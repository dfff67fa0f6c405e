"""One picture's Monte-Carlo work and who waits for it."""

import threading
from collections.abc import Callable
from concurrent.futures import Future, InvalidStateError
from dataclasses import dataclass, field, replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from opentelemetry.trace import Span

from service import tracing
from service.attempt import Attempt, Watch
from service.caller import Caller
from service.certificate.blocks import Block
from service.certificate.evidence import Mark
from service.certificate.sequential import Verdict
from service.models.loaded import LoadedModel
from service.types import Fidelity, Look, SamplingPlan, Stage

Progress = Callable[[int], None]


class Home(Protocol):
    """An engine that hands out samples of a job's attempt."""

    def resume(self, work: "Work") -> None:
        """More of its samples may be handed out now."""

    def found(self, work: "Work", what: Block | Mark) -> None:
        """Queue what its samples filled or reached, for its statistics."""

    def wait_for_room(self) -> None:
        """Wait while its statistics are far behind."""


@dataclass(frozen=True, slots=True)
class JobResult:
    """What the engine returns for one picture; times in seconds.

    Attributes:
        embedding: float32 [d], unit norm.
        norms: of the selected features, before they were made unit, [n0].
        verdict: None when no certificate was asked.
        fidelity: of the embedding; None with `verdict`.
        model: what computed all of the features, in the batch shape that it had then.
        watch: what was shown every feature; None where none was asked.
    """

    embedding: NDArray[np.float32]
    norms: tuple[float, ...]
    verdict: Verdict | None
    fidelity: Fidelity | None
    queue_s: float
    device_s: float
    statistics_s: float
    model: LoadedModel
    watch: Watch | None


@dataclass(slots=True, eq=False)
class Job:
    """A picture, its plan, its seed, and the future of its result.

    Attributes:
        model: name of a loaded model.
        image: x, uint8 [3, H, W].
        seed: secret, drawn after everything else here was fixed.
        submitted: monotonic seconds.
        deadline: monotonic seconds; then its work ends.
        future: resolved once, with a `JobResult` or a `ServiceError`; cancelling abandons the job.
        progress: called on a device thread with the number of samples just tallied, negative when
            they have to be computed again.
        make_watch: makes what is shown every feature on a device thread, once it is tallied.
        on_selected: told on a device thread the embedding and the mean norm, as soon as they are
            known; again, where the job starts over.
        on_look: told on the statistics thread what is certified after a look that decided nothing.
        caller: for whom it is, as the log says.
        span: its own, while it is worked on.
    """

    model: str
    image: NDArray[np.uint8]
    plan: SamplingPlan
    seed: bytes
    submitted: float
    deadline: float = float("inf")
    progress: Progress | None = None
    make_watch: Callable[[], Watch] | None = None
    on_selected: Callable[[NDArray[np.float32], float], None] | None = None
    on_look: Callable[[Look], None] | None = None
    caller: Caller | None = None
    span: Span = tracing.NONE
    future: "Future[JobResult]" = field(default_factory=Future)
    started: float | None = None
    device_s: float = 0.0
    statistics_s: float = 0.0
    _work: "Work | None" = None
    _turn: threading.Lock = field(default_factory=threading.Lock)

    @property
    def work(self) -> "Work":
        """The present run through the samples.

        Raises:
            RuntimeError: no engine has begun the job yet.
        """
        if self._work is None:
            raise RuntimeError("no engine has begun this job")
        return self._work

    def begin(self, model: LoadedModel, homes: "tuple[Home, ...]") -> "Work":
        """Start, or start over, with this model's batch shape; several engines may ask at once.

        Returns:
            what these homes are to hand out, unless it is abandoned for another one already.
        """
        work = Work(self, Attempt(self.plan, model, self.make_watch, self.on_selected), homes)
        with self._turn:
            before, self._work = self._work, work
        if before is not None:
            self.note("restarted", {"fcs.batch_size": model.batch_size})
            before.attempt.release()  # first: what is tallied no more is what was tallied in vain
            if self.progress is not None:
                self.progress(-before.attempt.tallied)
        return work

    def again(self) -> "Job":
        """The same work for another future."""
        if self.progress is not None and self._work is not None:
            self.progress(-self._work.attempt.tallied)
        return replace(self, future=Future(), started=None, _work=None, _turn=threading.Lock())

    def note(self, event: str, attributes: tracing.Attributes) -> None:
        """Put an event on its span, if that is recorded and has not ended."""
        if self.span.is_recording():
            self.span.add_event(event, dict(attributes))

    def end_span(self) -> None:
        """Tell its span what came of it: its waiter has the result, or left."""
        if not self.span.is_recording():
            return
        self.span.set_attribute("fcs.samples", self.total - self.outstanding)
        if not self.future.done() or self.future.cancelled():
            self.span.set_attribute("fcs.stopped", "left")
        elif (error := self.future.exception()) is not None:
            tracing.failed(self.span, tracing.kind_of(error))
        elif (verdict := self.future.result().verdict) is not None:
            self.span.set_attribute("fcs.stopped", verdict.stopped)
        self.span.end()

    @property
    def total(self) -> int:
        """All samples of the plan."""
        return self.plan.total

    @property
    def outstanding(self) -> int:
        """Samples not handed out yet; all of them before an engine has begun it."""
        return self.total if self._work is None else self._work.attempt.outstanding

    @property
    def homes(self) -> "tuple[Home, ...]":
        """The engines that hand out its samples now."""
        return self.work.homes

    @property
    def abandoned(self) -> bool:
        """Failed, finished, or its caller left."""
        return self.future.done()

    def release(self) -> None:
        """Give back the memory of the samples: nobody waits for them any more."""
        if self._work is not None:
            self._work.attempt.release()

    def fail(self, error: BaseException) -> None:
        """Tell the waiter, unless it was told already or left."""
        if not self.future.done():
            try:
                self.future.set_exception(error)
            except InvalidStateError:  # it left in between
                return

    def succeed(self, result: JobResult) -> None:
        """Answer the waiter, unless it left."""
        if not self.future.done():
            try:
                self.future.set_result(result)
            except InvalidStateError:  # it left in between
                return


@dataclass(frozen=True, slots=True, eq=False)
class Work:
    """A job in one of its attempts, as schedulers and batches hold it.

    Attributes:
        homes: the engines that hand out its samples, all in the attempt's batch shape; the
            statistics are made by the first.
    """

    job: Job
    attempt: Attempt
    homes: tuple[Home, ...]

    @property
    def model(self) -> str:
        """Name of the model its samples run through."""
        return self.job.model

    @property
    def priority(self) -> int:
        """Higher goes first."""
        return self.job.plan.priority

    @property
    def deadline(self) -> float:
        """Monotonic seconds; then it ends."""
        return self.job.deadline

    @property
    def abandoned(self) -> bool:
        """Nobody waits for it: the job failed, finished, was left, or started over."""
        return self.job.abandoned or self.job.work is not self

    @property
    def remaining(self) -> int:
        """Samples that may be handed out now."""
        return self.attempt.remaining

    def take(self, limit: int) -> list[tuple[Stage, int, int]]:
        """Hand out up to `limit` samples as (stage, first index, count)."""
        return self.attempt.take(limit)

    def resume(self) -> None:
        """Tell the engines that more samples may be handed out now."""
        for home in self.homes:
            home.resume(self)
