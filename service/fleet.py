"""One engine for each device: where a job goes, and what they are together.

A job goes to the engine with the least work before it. A large one goes to all engines that compute
the same function, each taking what it can; its features are joined in the order of its samples.
"""

import time
from collections.abc import Sequence

from service.engine import Engine
from service.errors import unavailable
from service.job import Job
from service.metrics import Metrics
from service.models.loaded import LoadedModel

# Batches of one engine from which on a job is shared: below, waiting for the slower one costs more.
_SHARED_FROM = 32


class Fleet:
    """The engines of one process.

    Args:
        models: for each device, its models by name; every device has the same names.
        metrics: of all of them.
        device_timeout_s: as for `Engine`.
    """

    def __init__(
        self,
        models: Sequence[dict[str, LoadedModel]],
        metrics: Metrics,
        device_timeout_s: float = 60.0,
    ) -> None:
        self.engines = tuple(Engine(own, metrics, device_timeout_s) for own in models)

    def start(self) -> None:
        """Warm every device, then run.

        Raises:
            Exception: whatever a warm-up raised; no engine runs then.
        """
        try:
            for engine in self.engines:
                engine.start()
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """End every engine; jobs still waiting fail as unavailable."""
        for engine in self.engines:
            engine.stop()

    def submit(self, jobs: Sequence[Job]) -> None:
        """Accept the jobs of one request; each one's future will be resolved.

        They go to engines of one revision, as their answer will: a batch shape that was halved on
        one device stays so.

        Raises:
            ServiceError: unavailable, when no engine is fit; the jobs are worth nothing then.
        """
        revisions: dict[str, str] = {}
        for job in jobs:
            homes = self._homes(job, revisions.get(job.model))
            model = homes[0].model(job.model)
            revisions[job.model] = model.revision
            job.begin(model, homes)
            for home in homes:
                home.accept(job)

    @property
    def fault(self) -> str | None:
        """Why no work is accepted; None while one engine accepts it."""
        faults = [engine.fault for engine in self.engines]
        return None if None in faults else "; ".join(dict.fromkeys(f for f in faults if f))

    @property
    def lost(self) -> bool:
        """Only a new process will help."""
        return all(engine.lost for engine in self.engines)

    @property
    def devices(self) -> tuple[str, ...]:
        """As torch names them."""
        return tuple(engine.device for engine in self.engines)

    @property
    def running_jobs(self) -> int:
        """Jobs accepted whose waiter has no answer yet."""
        return len(self._jobs())

    @property
    def pending_samples(self) -> int:
        """Samples accepted and not yet handed to a device."""
        return sum(job.outstanding for job in self._jobs())

    @property
    def computed_per_second(self) -> float:
        """Samples that all devices compute a second, as measured."""
        return sum(engine.rate.computed for engine in self.engines)

    def model(self, name: str) -> LoadedModel:
        """A model in its present batch shape on the first device that works."""
        fit = [engine for engine in self.engines if engine.fault is None]
        return (fit or self.engines)[0].model(name)

    def wait_idle(self, timeout_s: float) -> bool:
        """Wait until every accepted job is answered; False if that took too long."""
        until = time.monotonic() + timeout_s
        return all(engine.wait_idle(max(0.0, until - time.monotonic())) for engine in self.engines)

    def _jobs(self) -> frozenset[Job]:
        return frozenset().union(*(engine.jobs for engine in self.engines))

    def _homes(self, job: Job, revision: str | None) -> tuple[Engine, ...]:
        """Engines that work, of this revision where there are any."""
        fit = [engine for engine in self.engines if engine.fault is None]
        if not fit:
            raise unavailable(self.fault or "no device works")
        alike = [engine for engine in fit if engine.model(job.model).revision == revision]
        nearest = min(alike or fit, key=lambda e: e.pending_samples / max(e.rate.computed, 1e-9))
        model = nearest.model(job.model)
        if job.total < _SHARED_FROM * model.batch_size:
            return (nearest,)
        same = [e for e in fit if e.model(job.model).revision == model.revision]
        return (nearest, *(engine for engine in same if engine is not nearest))
