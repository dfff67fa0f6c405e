"""The one thread that drives a device: schedule, launch, tally, reply.

    device thread      next batch -> a lane; features -> each job's tally -> its statistics
    lanes              noise -> pipeline -> features, one batch of the model's one shape each
    statistics thread  block eigenvalues, looks at checkpoints; a verdict -> its waiter

A job's failure reaches its own waiter only. Out of memory halves the batch shape, and the jobs in
flight start over. When the device thread dies, every waiter is told and it is restarted once, in a
smaller shape where memory is what is missing. A call that does not return makes the engine unfit
until it does. The engine knows nothing of transports, requests or pictures.
"""

import logging
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future
from functools import partial

from service.certificate.blocks import Block
from service.certificate.evidence import Mark
from service.device import Batch, Device, StuckError
from service.errors import Kind, ServiceError, unavailable
from service.job import Job, JobResult, Work
from service.metrics import Metrics
from service.models.loaded import LoadedModel
from service.models.sampler import is_out_of_memory
from service.rate import Rate
from service.replies import Replies
from service.scheduler import Scheduler, Slice
from service.statistics import Statistics, fail

_log = logging.getLogger(__name__)
_RESTARTS = 1
_STOP_S = 5.0  # longest wait for the device thread, which may itself wait for a stuck call


class Engine:
    """Runs the samples of many jobs through the models of one device.

    Args:
        models: by name; their pipelines live on one device.
        metrics: told of every batch and result.
        device_timeout_s: seconds without a sign of life after which a device call is stuck.
    """

    def __init__(
        self, models: dict[str, LoadedModel], metrics: Metrics, device_timeout_s: float = 60.0
    ) -> None:
        self._metrics = metrics
        self._timeout_s = device_timeout_s
        self._jobs: set[Job] = set()
        self._wake = threading.Condition()
        self._stopping = False
        self._fault: str | None = None
        self._lost = self._stuck = False
        self.rate = Rate()
        self._device = Device(models, self._notify, self._count_halving)
        self._scheduler = self._new_scheduler()
        self._replies = Replies(metrics, self.rate, self._device.lanes)
        self._statistics = Statistics(metrics)
        self._thread = threading.Thread(target=self._own_device, name="fcs-device", daemon=True)

    # What callers may do, on any thread.

    def start(self) -> None:
        """Warm every model's batch shape, then run.

        Raises:
            Exception: whatever the warm-up raised; the engine has not started then.
        """
        seconds = self._device.warm_up(None)
        first = next(iter(self._device.models.values()))
        self.rate.observe(first.batch_size * self._device.lanes, seconds)
        self._thread.start()

    def stop(self) -> None:
        """End the threads; jobs still waiting fail as unavailable."""
        with self._wake:
            self._stopping = True
            self._wake.notify_all()
        if self._thread.is_alive():
            self._thread.join(_STOP_S)
        self._fail_all(unavailable("the service is shutting down"))
        self._device.close()
        self._statistics.close()

    def accept(self, job: Job) -> None:
        """Queue a begun job; its future will be resolved.

        Raises:
            ServiceError: unavailable, when the engine is stopping or unfit.
        """
        with self._wake:
            if self._stopping or self._fault:
                raise unavailable(self._fault or "the service is shutting down")
            work, model = job.work, self.model(job.model)
            if self not in work.homes:
                return  # it started over on another of its engines a moment ago
            if work.attempt.model.revision != model.revision:  # halved a moment ago
                work = job.begin(model, (self,))
            self._jobs.add(job)
            self._scheduler.add(work)
            self._wake.notify_all()
        job.future.add_done_callback(partial(self._forget, job))

    def resume(self, work: Work) -> None:
        """More of its samples may be handed out now."""
        with self._wake:
            if work.remaining and not work.abandoned:
                self._scheduler.resume(work)
                self._wake.notify_all()

    def found(self, work: Work, what: Block | Mark) -> None:
        """Queue what the samples of a job filled or reached, for its statistics."""
        self._statistics.take(work, what)

    def wait_for_room(self) -> None:
        """Wait while the statistics are far behind; for device threads that add to them."""
        self._statistics.wait_for_room()

    @property
    def device(self) -> str:
        """As torch names it."""
        return self._device.name

    @property
    def fault(self) -> str | None:
        """Why no work is accepted; None while it is."""
        return self._fault

    @property
    def lost(self) -> bool:
        """Only a new process will help: the device is dead, or stuck until now."""
        return self._lost or self._stuck

    @property
    def jobs(self) -> frozenset[Job]:
        """Those accepted whose waiter has no answer yet, but for those that moved elsewhere."""
        with self._wake:
            return frozenset(job for job in self._jobs if self in job.homes)

    @property
    def pending_samples(self) -> float:
        """Samples not yet handed to the device; of a job with several homes, its share."""
        return sum(job.outstanding / len(job.homes) for job in self.jobs)

    def model(self, name: str) -> LoadedModel:
        """A model in its present batch shape."""
        return self._device.models[name]

    def wait_idle(self, timeout_s: float) -> bool:
        """Wait until every accepted job is answered; False if that took too long."""
        with self._wake:
            return self._wake.wait_for(lambda: not self._jobs, timeout_s)

    # The device thread.

    def _own_device(self) -> None:
        restarts_left, fit = _RESTARTS, True
        while not self._stopping:
            try:
                if not fit:
                    self._revive()
                self._loop()
                return
            except StuckError as stuck:
                self._wait_for(stuck)
            except BaseException as error:
                if self._stopping:
                    return
                _log.exception("the device thread died; restarts left: %d", restarts_left)
                self._suspend(f"the device thread died: {type(error).__name__}")
                if not restarts_left:
                    self._lost = True
                    return
                restarts_left -= 1
                self._metrics.device_restarts.inc()
            fit = False

    def _loop(self) -> None:
        """Launch while a lane may want a batch; reply to the oldest when it is done."""
        while not self._stopping:
            step, late = self._next()
            for work in late:
                work.job.fail(ServiceError(Kind.DEADLINE, "the deadline passed"))
            if isinstance(step, Batch):
                self._finish(step)
            elif step:
                self._replies.begun(step)
                self._device.launch(step)
            else:
                self._watch()

    def _next(self) -> tuple[Batch | Sequence[Slice[Work]] | None, Sequence[Work]]:
        """A batch that is done, slices to launch, or None after a wait; and whose time is over.

        No job is answered here: who is told of it may want another engine's lock.
        """
        with self._wake:
            now = time.monotonic()
            late = self._scheduler.expired(now)
            if not self._device.full and (slices := self._scheduler.next_batch(now)):
                return slices, late
            batch = self._device.oldest_done()
            if batch is None and not late and not self._stopping:
                self._wake.wait(self._timeout_s / 4)
            return batch, late

    def _finish(self, batch: Batch) -> None:
        batch.trace()
        try:
            sampled = batch.sampled.result()
        except Exception as error:
            if is_out_of_memory(error):
                self._halve(batch, error)
            else:
                self._run_apart(batch, error)
            return
        self._replies.take(batch, sampled)

    # Faults.

    def _run_apart(self, batch: Batch, error: Exception) -> None:
        """A batch failed: run each of its slices alone, in the same shape, to find the culprit.

        Raises:
            Exception: the device fails even an empty batch.
            StuckError: a call does not return.
        """
        _log.warning("a batch failed (%s); running its jobs apart", error)
        if batch.model is not self.model(batch.model.name):
            return  # its shape is of the past: its jobs have started over
        alive = False
        for index, part in enumerate(batch.slices):
            if part.job.abandoned:
                continue
            single = self._device.alone(batch, index, self._timeout_s)
            single.trace()
            try:
                sampled = single.sampled.result()
            except Exception as cause:
                if is_out_of_memory(cause):
                    self._halve(batch, cause)
                    return
                fail(part.job, cause)
                continue
            alive = True
            self._replies.take(single, sampled)
        if not alive:  # poisoned jobs, or a device that fails whatever it is given?
            self._device.empty(batch.model, self._timeout_s)

    def _halve(self, batch: Batch, error: Exception) -> None:
        """Out of memory: half the batch shape from now on, and the jobs in flight start over.

        Raises:
            Exception: not even a batch of one fits.
            StuckError: a call does not return.
        """
        name = batch.model.name
        if batch.model is not self.model(name):
            return  # launched before an earlier halving
        if batch.model.batch_size == 1:
            raise error
        model = self._device.halve(name, self._timeout_s)
        with self._wake:
            self._scheduler.resize(name, model.batch_size)
        for job in self.jobs:
            if job.model == name and not job.abandoned:
                self._start_over(job, model)

    def _start_over(self, job: Job, model: LoadedModel) -> None:
        try:
            work = job.begin(model, (self,))
        except Exception as error:
            fail(job.work, error)
            return
        with self._wake:
            self._scheduler.add(work)

    def _suspend(self, reason: str) -> None:
        """Accept no work, and tell every waiter."""
        with self._wake:
            self._fault = reason
        self._fail_all(unavailable(reason))

    def _revive(self) -> None:
        """Warm the device up; if it works after all, work is accepted again.

        Raises:
            Exception: it does not.
            StuckError: a call does not return.
        """
        self._device.revive(self._timeout_s)
        with self._wake:
            self._scheduler = self._new_scheduler()
        _log.warning("the device works again")
        self._accept_again()

    def _watch(self) -> None:
        """Stuck calls: tell the waiters, and go on when the device does."""
        silent_s = self._device.silent_s()
        if silent_s > self._timeout_s and self._fault is None:
            self._tell_stuck()
        elif silent_s <= self._timeout_s and self._stuck:
            _log.warning("the device call returned; work is accepted again")
            self._accept_again()

    def _wait_for(self, stuck: StuckError) -> None:
        """A call that this thread itself waited for: tell the waiters, and wait on."""
        self._tell_stuck()
        stuck.call.add_done_callback(lambda _: self._notify())
        with self._wake:
            self._wake.wait_for(lambda: stuck.call.done() or self._stopping)
            self._stuck = not stuck.call.done()

    def _tell_stuck(self) -> None:
        _log.error("a device call has not returned for %g s", self._timeout_s)
        self._stuck = True
        self._suspend(f"a device call has not returned for {self._timeout_s:g} s")

    def _accept_again(self) -> None:
        with self._wake:
            self._stuck, self._fault = False, None

    def _fail_all(self, error: ServiceError) -> None:
        for job in self.jobs:
            job.fail(error)

    # Books.

    def _new_scheduler(self) -> Scheduler[Work]:
        return Scheduler({name: m.batch_size for name, m in self._device.models.items()})

    def _forget(self, job: Job, future: "Future[JobResult]") -> None:
        job.release()
        with self._wake:
            self._jobs.discard(job)
            self._wake.notify_all()

    def _notify(self) -> None:
        with self._wake:
            self._wake.notify_all()

    def _count_halving(self, model: LoadedModel) -> None:
        self._metrics.batch_halvings.inc()
        _log.warning(
            "out of memory: %s runs in batches of %d from now on, and jobs under way start over",
            model.name,
            model.batch_size,
        )
