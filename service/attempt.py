"""One run through a picture's samples: what was handed out, tallied and looked at so far.

A job has one attempt at a time. When it must start over, because the batch shape changed under it,
it gets a new one, and what is still under way for the old one is dropped. Several engines may take
samples of one attempt; their features are tallied in the order of the samples all the same.
"""

import math
import threading
from collections.abc import Callable
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from service.certificate.blocks import Block
from service.certificate.evidence import Mark
from service.certificate.sequential import Sequential
from service.certificate.tally import Tally
from service.models.loaded import LoadedModel
from service.types import Look, SamplingPlan, Stage

# Bytes of features that may wait for those of lower indices, which another engine computes.
_MOST_WAITING_BYTES = 64 * 2**20
_FEWEST_WAITING = 64  # samples: below that two engines would only wait for each other


class Watch(Protocol):
    """Something else that a caller wants to know of a job's features, in the order of `Tally`."""

    def add(
        self, stage: Stage, features: NDArray[np.float32], embedding: NDArray[np.float32] | None
    ) -> None:
        """Take the next features [m, d] of a stage; the embedding is known from ESTIMATE on."""


Rows = tuple[NDArray[np.float32], NDArray[np.float32]]  # features [m, d], norms [m]


class Attempt:
    """Samples of one picture, handed out in order: CLEAN, SELECT, ESTIMATE.

    Estimation samples are handed out up to the checkpoint after the next one to be looked at, so
    that the device need not wait for a look, and little is drawn in vain.

    Args:
        plan: how many samples, and where to look.
        model: what computes the features; all of one attempt come from one batch shape.
        make_watch: makes what is shown every feature once it is tallied.
        on_selected: told the embedding and the mean norm as soon as they are known; it must not
            wait for anybody.
    """

    def __init__(
        self,
        plan: SamplingPlan,
        model: LoadedModel,
        make_watch: Callable[[], Watch] | None = None,
        on_selected: Callable[[NDArray[np.float32], float], None] | None = None,
    ) -> None:
        self._on_selected = on_selected
        self.model = model
        self._plan = plan
        self._stages = stages(plan)
        self._total = sum(count for _, count in self._stages)
        self._make_watch = make_watch
        self._lock = threading.RLock()  # who is told something may leave, which releases
        self._handed_out = 0
        self._tallied = 0
        self._looks = 0
        self._released = False
        self._ahead: dict[int, Rows] = {}
        self._norms: list[float] = []
        self._tally: Tally | None = None
        self._sequential: Sequential | None = None
        self.watch: Watch | None = None

    @property
    def outstanding(self) -> int:
        """Samples that may still be handed out, if sampling does not stop early."""
        return self._total - self._handed_out

    @property
    def remaining(self) -> int:
        """Samples that may be handed out now."""
        room = self._tallied + self._window - self._handed_out
        return max(0, min(self.outstanding - self._held_back, room))

    @property
    def tally(self) -> Tally:
        """Made when the first sample arrives: a queued job holds no more than its picture."""
        if self._released:
            raise RuntimeError("the attempt has ended")
        if self._tally is None:
            estimation = self._plan.estimation if self._plan.certify else 0
            checkpoints = self._plan.checkpoints if self._plan.certify else ()
            dimensions = self.model.pipeline.dimensions
            self._tally = Tally(dimensions, self._plan.selection, estimation, checkpoints)
            self.watch = None if self._make_watch is None else self._make_watch()
        return self._tally

    @property
    def sequential(self) -> Sequential:
        """The looks at the tally; for the statistics worker."""
        if self._sequential is None:
            self._sequential = Sequential(self._plan, self.tally)
        return self._sequential

    def take(self, limit: int) -> list[tuple[Stage, int, int]]:
        """Hand out up to `limit` samples as (stage, first index, count)."""
        parts: list[tuple[Stage, int, int]] = []
        with self._lock:
            limit = min(limit, self.remaining)
            begin = 0
            for stage, count in self._stages:
                first = self._handed_out - begin
                if first < count and limit > 0:
                    taken = min(count - first, limit)
                    parts.append((stage, first, taken))
                    self._handed_out += taken
                    limit -= taken
                begin += count
        return parts

    def add(
        self,
        stage: Stage,
        first: int,
        sampled: Rows,
        found: Callable[[Block | Mark], None],
    ) -> int:
        """Tally samples of a stage from index `first` on, or keep them for their turn.

        Args:
            stage: of the samples.
            first: index of the first of them in its stage.
            sampled: their features, float32 [m, d] of unit norm, and the norms [m] they had.
            found: called in the order of the samples with what `Tally.add` found in them; it must
                not wait for anybody.

        Returns:
            how many samples were tallied.
        """
        with self._lock:
            if self._released:
                return 0
            before = self._tallied
            begin = self._begin(stage) + first
            # What waits is not to keep the rows of a whole batch.
            waits = begin != self._tallied
            self._ahead[begin] = (sampled[0].copy(), sampled[1].copy()) if waits else sampled
            while (rows := self._ahead.pop(self._tallied, None)) is not None:
                ready, norms = rows
                part = self._stage_of(self._tallied)
                if part is Stage.SELECT:
                    self._norms += norms.tolist()
                reached = self.tally.add(part, ready)
                if self.watch is not None:
                    embedding = self.tally.embedding if part is Stage.ESTIMATE else None
                    self.watch.add(part, ready, embedding)
                for what in reached:  # last: a look may end the job
                    found(what)
                self._tallied += len(ready)
                if part is Stage.SELECT and self._on_selected and self.selected:
                    self._on_selected(self.tally.embedding, self.norm)
            return self._tallied - before

    @property
    def tallied(self) -> int:
        """Samples whose features were tallied."""
        return self._tallied

    @property
    def selected(self) -> bool:
        """The embedding is known."""
        tally = self._tally  # read once: another thread may make or release it
        return tally is not None and tally.selected

    @property
    def norms(self) -> tuple[float, ...]:
        """Of the selected features, before they were made unit."""
        return tuple(self._norms)

    @property
    def norm(self) -> float:
        """Mean norm of the features whose mean is the embedding."""
        return math.fsum(self._norms) / len(self._norms)

    def tell(self, listener: Callable[[Look], None], look: Look) -> None:
        """Tell a listener of a look, unless it is of the past: the attempt has ended.

        Args:
            listener: must not wait for anybody.
            look: at this attempt.
        """
        with self._lock:
            if not self._released:
                listener(look)

    def continue_past_look(self) -> None:
        """A checkpoint was looked at, and sampling goes on."""
        self._looks += 1

    def release(self) -> None:
        """Give back the memory of the samples: nobody waits for them any more."""
        with self._lock:
            self._released = True
            self._tally = self._sequential = None
            self._ahead.clear()

    @property
    def _held_back(self) -> int:
        if not self._plan.certify:
            return 0
        checkpoints = self._plan.checkpoints
        return self._plan.estimation - checkpoints[min(self._looks + 1, len(checkpoints) - 1)]

    @property
    def _window(self) -> int:
        """Samples that may be handed out beyond those tallied."""
        size = 4 * self.model.pipeline.dimensions
        return max(_MOST_WAITING_BYTES // size, _FEWEST_WAITING, 8 * self.model.batch_size)

    def _begin(self, stage: Stage) -> int:
        """Samples of all stages before this one."""
        before = 0
        for own, count in self._stages:
            if own is stage:
                return before
            before += count
        raise ValueError(f"{stage} is no stage of this plan")

    def _stage_of(self, sample: int) -> Stage:
        for stage, count in self._stages:
            if sample < count:
                return stage
            sample -= count
        raise ValueError("past the last sample")


def stages(plan: SamplingPlan) -> tuple[tuple[Stage, int], ...]:
    """(stage, samples) of a plan, in the order they run."""
    selection = (Stage.SELECT, plan.selection)
    if not plan.certify:
        return (selection,)
    return ((Stage.CLEAN, plan.clean), selection, (Stage.ESTIMATE, plan.estimation))
