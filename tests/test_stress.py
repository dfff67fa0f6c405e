"""Many small jobs on two engines while what can fail does: who waits is told, and rightly."""

import random
import threading
import time
from dataclasses import replace

import numpy as np

from service.errors import Kind, ServiceError
from service.fleet import Fleet
from service.metrics import Metrics
from service.types import Target
from tests.engines import WAIT, image, job_of
from tests.tiny import Rotation, plan, tiny_model

POISON = 255
JOBS = 120  # while things fail
CALM = 30  # afterwards, all of them good
TIMEOUT_S = 2.0
WAITING = 40  # jobs at a time

PLANS = [
    *(plan(selection=n, certify=False) for n in (1, 7, 64, 65, 200)),
    plan(selection=3, estimation=20),
    plan(selection=10, estimation=150),  # large enough to be shared
    plan(selection=10, estimation=2000, target=Target(0.02, 0.8)),
    *(plan(selection=n, certify=False) for n in (3, 30, 300)),
]


class Faulty(Rotation):
    """Fails for one colour always, and in other ways when told."""

    def __init__(self):
        super().__init__()
        self.fits = 8  # samples in memory
        self.free = threading.Event()
        self.free.set()

    def pooled(self, pixels):
        self.free.wait(WAIT)
        if len(pixels) > self.fits:
            raise MemoryError("out of memory")
        if bool((pixels[:, 1].flatten(1).amin(1) > 0.95).any()):
            raise RuntimeError("poisoned")
        return super().pooled(pixels)


class Rows:
    """A watch that counts."""

    def __init__(self):
        self.rows = 0

    def add(self, stage, features, embedding):
        self.rows += len(features)


class Alone:
    """What a job's answer is where nothing else runs and nothing fails, in each shape."""

    def __init__(self):
        self._fleets, self._answers = {}, {}

    def __call__(self, job, batch_size):
        key = (int(job.image[0, 0, 0]), replace(job.plan, priority=0), job.seed, batch_size)
        if key not in self._answers:
            fleet = self._fleets.get(batch_size)
            if fleet is None:
                models = [{"tiny": tiny_model(batch_size=batch_size)}]
                fleet = self._fleets[batch_size] = Fleet(models, Metrics("test"))
                fleet.start()
            same = job_of(image=job.image, plan=key[1], seed=job.seed)
            fleet.submit([same])
            self._answers[key] = same.future.result(WAIT)
        return self._answers[key]

    def stop(self):
        for fleet in self._fleets.values():
            fleet.stop()


def random_job(rng, calm=False):
    kind = "good" if calm else rng.choices(("good", "poisoned", "misshapen"), (90, 4, 2))[0]
    hurried = not calm and rng.random() < 0.1
    value = POISON if kind == "poisoned" else rng.choice((10, 200))
    own = rng.choice(PLANS)
    if kind == "poisoned":
        own = plan(selection=20, certify=False, sigma=0.0001)
    counted = []
    job = job_of(
        image=np.zeros((3, 5, 5), np.uint8) if kind == "misshapen" else image(value),
        plan=replace(own, priority=rng.choice((0, 0, 0, 1, -1))),
        seed=bytes([rng.randrange(2)]) * 16,
        make_watch=Rows,
        progress=counted.append,
        deadline=time.monotonic() + (rng.uniform(0, 0.2) if hurried else WAIT * 10),
    )
    return kind, job, counted


def faults(fleet, encoders, rng):
    """Calls that each make something fail, and give it time to be noticed."""

    def out_of_memory():
        encoder = rng.choice(encoders)
        encoder.fits = max(1, encoder.fits // 2)

    def out_of_memory_everywhere():
        for encoder in encoders:
            encoder.fits = min(encoder.fits, 2)

    def stick():
        encoder = rng.choice(encoders)
        encoder.free.clear()
        threading.Timer(1.5 * TIMEOUT_S, encoder.free.set).start()

    def die():
        scheduler = rng.choice(fleet.engines)._scheduler
        scheduler.next_batch = lambda _: (_ for _ in ()).throw(SystemError("gone"))

    return [out_of_memory, stick, die, out_of_memory_everywhere]


def test_whatever_fails_every_waiter_is_told_and_every_answer_is_that_of_the_job_alone():
    run(1)


def run(seed):
    """JOBS of them, drawn from a seed, with every fault in turn."""
    rng, alone = random.Random(seed), Alone()
    encoders = [Faulty(), Faulty()]
    models = [{"tiny": tiny_model(encoder=e, batch_size=8, lanes=2)} for e in encoders]
    fleet = Fleet(models, Metrics("test"), device_timeout_s=TIMEOUT_S)
    fleet.start()
    trouble = faults(fleet, encoders, rng)
    at = {JOBS * (i + 1) // (len(trouble) + 1): fault for i, fault in enumerate(trouble)}
    jobs = []
    for i in range(JOBS):
        if i in at:
            at[i]()
        kind, job, counted = random_job(rng)
        try:
            fleet.submit([job])
        except ServiceError as error:
            assert error.kind is Kind.UNAVAILABLE
            job.future.cancel()
            until(lambda: fleet.fault is None)
            continue
        jobs.append((kind, job, counted))
        if rng.random() < 0.1:
            threading.Timer(rng.uniform(0, 0.1), job.future.cancel).start()
        until(lambda: sum(not job.future.done() for _, job, _ in jobs) < WAITING)
    until(lambda: all(job.future.done() for _, job, _ in jobs))
    assert fleet.wait_idle(WAIT)
    # How many of these are answered is a matter of speed: a dying device takes all that wait.
    answered = [right(kind, job, counted, alone) for kind, job, counted in jobs]
    assert any(answered)
    calm = [random_job(rng, calm=True) for _ in range(CALM)]
    fleet.submit([job for _, job, _ in calm])
    until(lambda: all(job.future.done() for _, job, _ in calm))
    assert sum(right(kind, job, counted, alone) for kind, job, counted in calm) == CALM
    left_nothing(fleet)
    fleet.stop()
    alone.stop()


def right(kind, job, counted, alone):
    """Whether a job was answered: then what it was told is what it would be told alone."""
    if job.future.cancelled():
        return False
    error = job.future.exception(0)
    if error is not None:
        assert isinstance(error, ServiceError), error
        assert kind != "good" or error.kind in (Kind.UNAVAILABLE, Kind.DEADLINE), error
        return False
    assert kind == "good"
    result = job.future.result()
    expected = alone(job, result.model.batch_size)
    assert result.model.revision == expected.model.revision
    np.testing.assert_array_equal(result.embedding, expected.embedding)
    if job.plan.certify:
        assert result.verdict.stopped == expected.verdict.stopped
        assert result.verdict.findings.samples == expected.verdict.findings.samples
        assert result.verdict.findings.bounds == expected.verdict.findings.bounds
    if job.plan.target is None:
        until(lambda: sum(counted) == job.total)  # told after the last look may have answered
        assert result.watch.rows == job.total
    return True


def left_nothing(fleet):
    for engine in fleet.engines:
        assert not engine._jobs
        if engine.fault is None:
            until(lambda own=engine: not own._scheduler.ready("tiny") and not own._device._flight)


def until(condition):
    end = time.monotonic() + WAIT
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.002)
