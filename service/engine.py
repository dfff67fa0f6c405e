"""The one thread that owns the device: schedule, run, tally, reply.

    device thread      next batch -> noise -> pipeline -> features -> each job's tally
    lanes              the CPU's share of that work, side by side
    preparer thread    with a GPU: the next batch's noise while this batch computes
    statistics thread  block eigenvalues, looks at checkpoints; a verdict -> its waiter

A job's failure reaches its own waiter only. If the device thread itself dies, every waiter is told
and the engine says why it is lost. The engine knows nothing of transports, requests or pictures.
"""

import logging
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray

from service.errors import ServiceError, unavailable
from service.job import Job, JobResult
from service.metrics import Metrics
from service.models.lanes import Lanes
from service.models.noise import add_noise
from service.models.store import LoadedModel
from service.scheduler import Scheduler, Slice
from service.statistics import Statistics, answer, fail

_log = logging.getLogger(__name__)
# Weight of the newest batch in the running estimate of samples per second.
_RATE_WEIGHT = 0.05


@dataclass(frozen=True, slots=True)
class Prepared:
    """A device batch: slices at their rows, the noisy levels of all, padding after them."""

    model: LoadedModel
    placed: tuple[tuple[int, Slice[Job]], ...]
    levels: NDArray[np.float32]  # [capacity, 3, H, W]
    rows: int
    noise_s: float

    @property
    def fill(self) -> int:
        """Rows whose samples somebody waits for."""
        return sum(part.count for _, part in self.placed)


class Engine:
    """Runs the samples of many jobs through the loaded models.

    Args:
        models: by name; their pipelines live on one device.
        metrics: told of every batch and result.
    """

    def __init__(self, models: dict[str, LoadedModel], metrics: Metrics) -> None:
        self._models = models
        self._metrics = metrics
        self._capacities = {name: model.capacity for name, model in models.items()}
        self._scheduler: Scheduler[Job] = Scheduler()
        self._jobs: set[Job] = set()
        self._wake = threading.Condition()
        self._stopping = False
        self._lost: str | None = None
        self._rate = 0.0
        first = next(iter(models.values()))  # lanes and threads of the others are the same
        self._lanes = Lanes(first.lanes, first.threads)
        self._preparer = ThreadPoolExecutor(1, "fcs-prepare")
        self._statistics = Statistics(metrics, self._go_on)
        # On a CPU noise and encoder want the same cores: preparing ahead only makes them wait.
        on_gpu = any(model.pipeline.device.type != "cpu" for model in models.values())
        loop = self._overlapped_loop if on_gpu else self._plain_loop
        self._device = threading.Thread(
            target=self._own_device, args=(loop,), name="fcs-device", daemon=True
        )

    def start(self) -> None:
        """Warm every model's batch shape, then run.

        Raises:
            Exception: whatever the warm-up raised; the engine has not started then.
        """
        for model in self._models.values():
            height, width = model.preprocessing.size
            levels = np.zeros((model.capacity, 3, height, width), np.float32)
            for _ in range(2):
                began = time.monotonic()
                self._run(model, levels, model.capacity)
                self._observe_rate(model.capacity, time.monotonic() - began)
        self._device.start()

    def stop(self) -> None:
        """End the threads; jobs still waiting fail as unavailable."""
        with self._wake:
            self._stopping = True
            self._wake.notify_all()
        if self._device.is_alive():
            self._device.join()
        self._fail_all(unavailable("the service is shutting down"))
        self._preparer.shutdown(cancel_futures=True)
        self._statistics.close()
        self._lanes.close()

    def submit(self, jobs: Sequence[Job]) -> None:
        """Accept jobs; each one's future will be resolved.

        Raises:
            ServiceError: unavailable, when the engine is stopping or lost; then none was accepted.
        """
        with self._wake:
            if self._stopping or self._lost:
                raise unavailable(self._lost or "the service is shutting down")
            for job in jobs:
                self._jobs.add(job)
                self._scheduler.add(job)
            self._wake.notify_all()
        for job in jobs:
            job.future.add_done_callback(partial(self._forget, job))

    @property
    def lost(self) -> str | None:
        """Why the device thread died; None while it lives."""
        return self._lost

    @property
    def running_jobs(self) -> int:
        """Jobs accepted whose waiter has no answer yet."""
        return len(self._jobs)

    @property
    def pending_samples(self) -> int:
        """Samples accepted and not yet handed to the device."""
        with self._wake:
            return sum(job.outstanding for job in list(self._jobs) if not job.abandoned)

    @property
    def samples_per_second(self) -> float:
        """Measured rate of recent batches, padding not counted."""
        return self._rate

    def _own_device(self, loop: Callable[[], None]) -> None:
        try:
            loop()
        except BaseException as error:
            _log.exception("the device thread died")
            with self._wake:
                self._lost = f"the device thread died: {type(error).__name__}"
            self._fail_all(unavailable(self._lost))

    def _plain_loop(self) -> None:
        """The simple form, which explains the other: prepare, step, repeat."""
        while (prepared := self._prepare_next()) is not None:
            self._step(prepared, prepared.noise_s)

    def _overlapped_loop(self) -> None:
        """The same, with the next batch prepared while this one computes."""
        upcoming = self._preparer.submit(self._prepare_next)
        while (prepared := upcoming.result()) is not None:
            upcoming = self._preparer.submit(self._prepare_next)
            self._step(prepared)

    def _prepare_next(self) -> Prepared | None:
        """Wait for work and make its noise; None when stopping."""
        while True:
            with self._wake:
                while not (slices := self._scheduler.next_batch(self._capacities)):
                    if self._stopping:
                        return None
                    self._wake.wait()
                if self._stopping:
                    return None
            if (prepared := self._prepare(slices)) is not None:
                return prepared

    def _prepare(self, slices: Sequence[Slice[Job]]) -> Prepared | None:
        """Noise for each sample; a job whose picture cannot be prepared fails alone."""
        now = time.monotonic()
        model = self._models[slices[0].job.model]
        height, width = model.preprocessing.size
        levels = np.zeros((model.capacity, 3, height, width), np.float32)
        placed: list[tuple[int, Slice[Job]]] = []
        samples: list[tuple[Slice[Job], int]] = []
        for part in slices:
            if part.job.started is None:
                part.job.started = now
                self._metrics.queue_seconds.observe(now - part.job.submitted)
            placed.append((len(samples), part))
            samples += [(part, part.first + i) for i in range(part.count)]

        def draw(first: int, end: int) -> None:
            for row in range(first, end):
                part, index = samples[row]
                job = part.job
                try:
                    levels[row] = add_noise(job.image, job.plan.noise, job.seed, part.stage, index)
                except Exception as error:
                    fail(job, error)

        self._lanes.run(draw, len(samples))
        noise_s = time.monotonic() - now
        kept = tuple((row, part) for row, part in placed if not part.job.abandoned)
        return Prepared(model, kept, levels, len(samples), noise_s) if kept else None

    def _step(self, batch: Prepared, noise_s: float = 0.0) -> None:
        """Run and reply; `noise_s` is the part of the preparation that the device waited for."""
        began = time.monotonic() - noise_s
        try:
            features = self._run(batch.model, batch.levels, batch.rows)
        except Exception as error:
            self._run_apart(batch, error)
            return
        seconds = time.monotonic() - began
        self._observe(batch, seconds)  # first: who has an answer finds it in the metrics
        self._reply(batch, features, seconds)

    def _run(
        self, model: LoadedModel, levels: NDArray[np.float32], rows: int
    ) -> NDArray[np.float32]:
        """Features [>= rows, d], computed in calls of the model's one batch shape."""
        size = model.batch_size

        def call(first: int, end: int) -> NDArray[np.float32]:
            features: NDArray[np.float32] = (
                model.pipeline(torch.from_numpy(levels[first:end])).cpu().numpy()
            )
            return features

        padded = -(-rows // size) * size
        if model.pipeline.device.type != "cpu":  # one thread owns the device
            return np.concatenate([call(i, i + size) for i in range(0, padded, size)])
        return np.concatenate(self._lanes.run(call, padded, size))

    def _run_apart(self, batch: Prepared, error: Exception) -> None:
        """A batch failed: run each job's rows alone, in the same shape, to find the culprit.

        Raises:
            Exception: the device fails even an empty batch; the engine is lost.
        """
        _log.warning("a batch failed (%s); running its jobs apart", error)
        alive = False
        for row, part in batch.placed:
            if part.job.abandoned:  # an earlier slice of it failed just now
                continue
            levels = np.zeros_like(batch.levels)
            levels[: part.count] = batch.levels[row : row + part.count]
            alone = Prepared(batch.model, ((0, part),), levels, part.count, 0.0)
            began = time.monotonic()
            try:
                features = self._run(batch.model, levels, part.count)
            except Exception as cause:
                fail(part.job, cause)
                continue
            alive = True
            seconds = time.monotonic() - began
            self._observe(alone, seconds)
            self._reply(alone, features, seconds)
        if not alive:  # poisoned jobs, or a device that fails whatever it is given?
            self._run(batch.model, np.zeros_like(batch.levels), batch.model.batch_size)

    def _reply(self, batch: Prepared, features: NDArray[np.float32], seconds: float) -> None:
        """Give each job its rows; a finished one goes on to its statistics."""
        for row, part in batch.placed:
            job = part.job
            if job.abandoned:
                continue
            try:
                job.device_s += seconds * part.count / batch.fill
                for found in job.add(part.stage, features[row : row + part.count]):
                    self._statistics.take(job, found)
                if job.progress is not None:
                    job.progress(part.count)
                if not job.plan.certify and job.tally.selected:
                    answer(job, None, None)
            except Exception as error:
                fail(job, error)

    def _go_on(self, job: Job) -> None:
        """Let the job draw up to its next checkpoint but one."""
        with self._wake:
            waits = not job.remaining
            job.continue_past_look()
            if waits and job.remaining and not job.abandoned:
                self._scheduler.resume(job)
                self._wake.notify_all()

    def _fail_all(self, error: ServiceError) -> None:
        for job in list(self._jobs):
            job.fail(error)

    def _forget(self, job: Job, _: Future[JobResult]) -> None:
        self._jobs.discard(job)
        job.release()
        with self._wake:
            self._wake.notify_all()

    def wait_idle(self, timeout_s: float) -> bool:
        """Wait until every accepted job is answered; False if that took too long."""
        with self._wake:
            return self._wake.wait_for(lambda: not self._jobs, timeout_s)

    def _observe(self, batch: Prepared, seconds: float) -> None:
        metrics = self._metrics
        metrics.batch_samples.observe(batch.fill)
        size = batch.model.batch_size
        metrics.batch_fill_ratio.set(batch.fill / (-(-batch.rows // size) * size))
        metrics.device_seconds.inc(seconds)
        for _, part in batch.placed:
            metrics.samples.labels(stage=part.stage.name.lower()).inc(part.count)
        if batch.model.pipeline.device.type == "cuda":
            metrics.device_memory.set(torch.cuda.memory_allocated(batch.model.pipeline.device))
        self._observe_rate(batch.fill, seconds)

    def _observe_rate(self, samples: int, seconds: float) -> None:
        rate = samples / max(seconds, 1e-9)
        self._rate = rate if self._rate == 0 else self._rate + _RATE_WEIGHT * (rate - self._rate)
