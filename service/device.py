"""One device: its models in their present batch shapes, its lanes, and the batches in flight.

More batches may be in flight than there are lanes, so that a lane never waits for the thread that
launches. They are handed back in the order of their launch.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, wait
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

from service import tracing
from service.job import Work
from service.models.lanes import Lanes
from service.models.loaded import LoadedModel
from service.models.sampler import Draw, Sampled, Sampler, is_out_of_memory, make_sampler
from service.scheduler import Slice

T = TypeVar("T")
_WARM_UP = 2  # calls in each lane
_CLOSE_S = 1.0  # longest wait for a lane that computes for nobody any more


@dataclass(frozen=True, slots=True)
class Batch:
    """Samples of one or many jobs in one call of a model.

    Attributes:
        model: in the batch shape of the call.
        slices: in the order of their rows; padding follows them.
        launched: monotonic seconds.
        sampled: the call's result.
    """

    model: LoadedModel
    slices: tuple[Slice[Work], ...]
    launched: float
    sampled: "Future[Sampled]"

    @property
    def fill(self) -> int:
        """Rows that hold samples."""
        return sum(part.count for part in self.slices)

    def trace(self) -> None:
        """A span of its own, linked to those of its jobs; once it is done."""
        if not tracing.on():
            return
        known: dict[str, str | int | float | bool] = {
            "fcs.model": self.model.name,
            "fcs.batch_size": self.model.batch_size,
            "fcs.fill": self.fill,
        }
        if (error := self.sampled.exception()) is None:
            sampled = self.sampled.result()
            known |= {"fcs.noise_s": sampled.noise_s, "fcs.encode_s": sampled.encode_s}
        of = [(part.job.job.span, _told(part)) for part in self.slices]
        tracing.batch("device.batch", time.monotonic() - self.launched, known, of, error)


class StuckError(TimeoutError):
    """A device call did not return in time; it may yet.

    Attributes:
        call: the one that was waited for.
    """

    def __init__(self, call: "Future[Any]", timeout_s: float) -> None:
        super().__init__(f"a device call has not returned for {timeout_s:g} s")
        self.call = call


class Device:
    """Runs batches; used by one thread at a time.

    Args:
        models: by name; their pipelines live on one device.
        on_done: called on a lane's thread whenever a batch is done.
        on_halved: told of a model in each new shape it is put in for want of memory.
    """

    def __init__(
        self,
        models: dict[str, LoadedModel],
        on_done: Callable[[], None],
        on_halved: Callable[[LoadedModel], None],
    ) -> None:
        self.models = dict(models)
        self._samplers: dict[str, Sampler] = {m.name: make_sampler(m) for m in models.values()}
        first = next(iter(models.values()))
        self.name = str(first.pipeline.device)
        self.lanes = max(model.lanes for model in models.values())
        self._pool = Lanes(self.lanes, first.threads)
        self._on_done, self._on_halved = on_done, on_halved
        self._flight: deque[Batch] = deque()
        self._progress = threading.Lock()
        self._last_done = 0.0

    def warm_up(self, timeout_s: float | None) -> float:
        """Call every model in its shape in every lane; a batch's seconds in the slowest model.

        Raises:
            Exception: whatever a call raised; StuckError.
        """
        return max(self._warm_up(name, timeout_s) for name in self.models)

    def revive(self, timeout_s: float) -> None:
        """Outwait and forget what is in flight; warm up, in a smaller shape what no longer fits.

        Raises:
            Exception: whatever a call raised; StuckError.
        """
        while self._flight:
            self._await(self._flight[0].sampled, timeout_s)
            self._flight.popleft()
        for name, model in list(self.models.items()):
            try:
                self._warm_up(name, timeout_s)
            except Exception as error:
                if not is_out_of_memory(error) or model.batch_size == 1:
                    raise
                self.halve(name, timeout_s)

    def launch(self, slices: Sequence[Slice[Work]]) -> None:
        """Start a batch of one model in the next free lane."""
        name = slices[0].job.model
        self._flight.append(self._submit(name, slices))

    @property
    def full(self) -> bool:
        """Enough batches wait for a lane."""
        return len(self._flight) >= 2 * self.lanes

    def oldest_done(self) -> Batch | None:
        """The oldest batch in flight if it is done; it is in flight no more."""
        if not self._flight or not self._flight[0].sampled.done():
            return None
        return self._flight.popleft()

    def silent_s(self) -> float:
        """Seconds since a batch was last launched on an idle device or came to its end."""
        if all(batch.sampled.done() for batch in self._flight):
            return 0.0
        with self._progress:
            return time.monotonic() - max(self._last_done, self._flight[0].launched)

    def alone(self, batch: Batch, index: int, timeout_s: float) -> Batch:
        """One slice of a batch that failed, by itself in the same shape, when it is done.

        Raises:
            StuckError: the call does not return.
        """
        single = self._submit(batch.model.name, [batch.slices[index]])
        self._await(single.sampled, timeout_s)
        return single

    def empty(self, model: LoadedModel, timeout_s: float) -> None:
        """A call with padding alone, which fails only if the device does.

        Raises:
            Exception: whatever the call raised; StuckError.
        """
        call = self._watched(partial(self._samplers[model.name], ()))
        self._await(call, timeout_s)
        call.result()

    def halve(self, name: str, timeout_s: float) -> LoadedModel:
        """Put a model in half its batch shape, or less if that does not fit either.

        Raises:
            Exception: whatever a call raised, of want of memory that in a batch of one.
            StuckError: a call does not return.
        """
        for batch in self._flight:  # the lanes take them first
            self._await(batch.sampled, timeout_s)
        while True:
            model = self.models[name].halved()
            self.models[name] = model
            self._samplers[name] = make_sampler(model)
            self._on_halved(model)
            try:
                self._warm_up(name, timeout_s)
                return model
            except Exception as error:
                if not is_out_of_memory(error) or model.batch_size == 1:
                    raise

    def close(self) -> None:
        """End the lanes."""
        self._pool.close(_CLOSE_S)

    def _warm_up(self, name: str, timeout_s: float | None) -> float:
        def call() -> float:
            sampled = self._samplers[name](())
            return sampled.noise_s + sampled.encode_s

        calls = [self._watched(call) for _ in range(_WARM_UP * self.lanes)]
        for future in calls:
            self._await(future, timeout_s)
        return [future.result() for future in calls][-1]

    def _submit(self, name: str, slices: Sequence[Slice[Work]]) -> Batch:
        draws = []
        for part in slices:
            job = part.job.job
            count = part.count
            draws.append(Draw(job.image, job.plan.noise, job.seed, part.stage, part.first, count))
        sampled = self._watched(partial(self._samplers[name], draws))
        return Batch(self.models[name], tuple(slices), time.monotonic(), sampled)

    def _watched(self, work: Callable[[], T]) -> "Future[T]":
        call = self._pool.submit(work)
        call.add_done_callback(self._note)
        return call

    def _await(self, call: "Future[Any]", timeout_s: float | None) -> None:
        """Wait for a call as long as any comes to its end within the time."""
        began = time.monotonic()
        left = timeout_s
        while not wait([call], left).done:
            assert timeout_s is not None  # noqa: S101 - else it had been waited for
            with self._progress:
                left = max(self._last_done, began) + timeout_s - time.monotonic()
            if left <= 0:
                raise StuckError(call, timeout_s)

    def _note(self, _: "Future[Any]") -> None:
        with self._progress:
            self._last_done = time.monotonic()
        self._on_done()


def _told(part: Slice[Work]) -> tracing.Attributes:
    """Which samples of a job a batch holds."""
    return {
        "fcs.stage": part.stage.name.lower(),
        "fcs.first": part.first,
        "fcs.count": part.count,
    }
