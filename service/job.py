"""One picture's Monte-Carlo work: what to draw, how far it is, and who waits for it."""

from collections.abc import Callable
from concurrent.futures import Future, InvalidStateError
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from service.certificate.blocks import Block
from service.certificate.evidence import Mark
from service.certificate.sequential import Sequential, Verdict
from service.certificate.tally import Tally
from service.types import Look, SamplingPlan, Stage

Progress = Callable[[int], None]


class Watch(Protocol):
    """Something else that a caller wants to know of a job's features, in the order of `Tally`."""

    def add(
        self, stage: Stage, features: NDArray[np.float32], embedding: NDArray[np.float32] | None
    ) -> None:
        """Take the next features [m, d] of a stage; the embedding is known from ESTIMATE on."""


@dataclass(frozen=True, slots=True)
class JobResult:
    """What the engine returns for one picture; times in seconds.

    Attributes:
        embedding: float32 [d], unit norm.
        verdict: None when no certificate was asked.
        fidelity: cosine of the embedding with the noise-free feature; None with `verdict`.
    """

    embedding: NDArray[np.float32]
    verdict: Verdict | None
    fidelity: float | None
    queue_s: float
    device_s: float
    statistics_s: float


@dataclass(slots=True, eq=False)
class Job:
    """Samples of one picture, handed out in order: CLEAN, SELECT, ESTIMATE.

    Estimation samples are handed out up to the checkpoint after the next one to be looked at, so
    that the device need not wait for a look, and little is drawn in vain.

    Attributes:
        model: name of a loaded model.
        image: x, uint8 [3, H, W].
        seed: secret, drawn after everything else here was fixed.
        submitted: monotonic seconds.
        future: resolved once, with a `JobResult` or a `ServiceError`; cancelling abandons the job.
        progress: called on the device thread with the number of samples just tallied.
        watch: shown every feature on the device thread, once it is tallied.
        on_look: told on the statistics thread what is certified after a look that decided nothing.
    """

    model: str
    image: NDArray[np.uint8]
    plan: SamplingPlan
    seed: bytes
    dimensions: int
    submitted: float
    progress: Progress | None = None
    watch: Watch | None = None
    on_look: Callable[[Look], None] | None = None
    future: "Future[JobResult]" = field(default_factory=Future)
    started: float | None = None
    device_s: float = 0.0
    statistics_s: float = 0.0
    _tally: Tally | None = None
    _sequential: Sequential | None = None
    _handed_out: int = 0
    _looks: int = 0

    @property
    def priority(self) -> int:
        """Higher goes first."""
        return self.plan.priority

    @property
    def abandoned(self) -> bool:
        """Failed, finished, or its caller left."""
        return self.future.done()

    @property
    def stages(self) -> tuple[tuple[Stage, int], ...]:
        """(stage, samples), in the order they run."""
        selection = (Stage.SELECT, self.plan.selection)
        if not self.plan.certify:
            return (selection,)
        return ((Stage.CLEAN, 1), selection, (Stage.ESTIMATE, self.plan.estimation))

    @property
    def total(self) -> int:
        """All samples of the job."""
        return sum(count for _, count in self.stages)

    @property
    def outstanding(self) -> int:
        """Samples that may still be handed out, if sampling does not stop early."""
        return self.total - self._handed_out

    @property
    def remaining(self) -> int:
        """Samples that may be handed out now."""
        return self.outstanding - self._held_back

    @property
    def _held_back(self) -> int:
        if not self.plan.certify:
            return 0
        checkpoints = self.plan.checkpoints
        return self.plan.estimation - checkpoints[min(self._looks + 1, len(checkpoints) - 1)]

    def continue_past_look(self) -> None:
        """A checkpoint was looked at, and sampling goes on."""
        self._looks += 1

    @property
    def tally(self) -> Tally:
        """Made when the first sample arrives: a queued job holds no more than its picture."""
        if self._tally is None:
            estimation = self.plan.estimation if self.plan.certify else 0
            checkpoints = self.plan.checkpoints if self.plan.certify else ()
            self._tally = Tally(self.dimensions, self.plan.selection, estimation, checkpoints)
        return self._tally

    @property
    def sequential(self) -> Sequential:
        """The looks at this job's tally; for the statistics thread."""
        if self._sequential is None:
            self._sequential = Sequential(self.plan, self.tally)
        return self._sequential

    def take(self, limit: int) -> list[tuple[Stage, int, int]]:
        """Hand out up to `limit` samples as (stage, first index, count)."""
        parts: list[tuple[Stage, int, int]] = []
        limit = min(limit, self.remaining)
        begin = 0
        for stage, count in self.stages:
            first = self._handed_out - begin
            if first < count and limit > 0:
                taken = min(count - first, limit)
                parts.append((stage, first, taken))
                self._handed_out += taken
                limit -= taken
            begin += count
        return parts

    def add(self, stage: Stage, features: NDArray[np.float32]) -> list[Block | Mark]:
        """Tally the next features of a stage; as `Tally.add` returns."""
        blocks = self.tally.add(stage, features)
        if self.watch is not None:
            embedding = self.tally.embedding if stage is Stage.ESTIMATE else None
            self.watch.add(stage, features, embedding)
        return blocks

    def release(self) -> None:
        """Give back the memory of the samples: nobody waits for them any more."""
        self._tally = self._sequential = None

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
