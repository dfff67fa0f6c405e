import threading
import time

import numpy as np
import pytest

from service.errors import Kind, ServiceError
from service.fleet import Fleet
from service.metrics import Metrics
from service.types import Stage, Target
from tests.engines import WAIT, job_of, result_of
from tests.tiny import Rotation, plan, tiny_model

LARGE = {"estimation": 2000}


@pytest.fixture
def make_fleet():
    fleets = []

    def make(*encoders, batch_sizes=(4, 4)):
        found = [
            {"tiny": tiny_model(encoder=encoder, batch_size=size, lanes=1)}
            for encoder, size in zip(encoders or (Rotation(), Rotation()), batch_sizes, strict=True)
        ]
        fleet = Fleet(found, Metrics("test"))
        fleet.start()
        fleets.append(fleet)
        return fleet

    yield make
    for fleet in fleets:
        fleet.stop()


class Counting(Rotation):
    """Counts its calls; may be held."""

    def __init__(self):
        super().__init__()
        self.calls = 0
        self.free = threading.Event()
        self.free.set()

    def pooled(self, pixels):
        assert self.free.wait(WAIT)
        self.calls += 1
        return super().pooled(pixels)


def alone(job):
    fleet = Fleet([{"tiny": tiny_model(lanes=1)}], Metrics("test"))
    fleet.start()
    result = result_of(fleet, job)
    fleet.stop()
    return result


def test_jobs_go_where_least_work_waits(make_fleet):
    one, two = Counting(), Counting()
    fleet = make_fleet(one, two)
    for engine in fleet.engines:
        engine.rate.observe(10**6, 10**4)  # equally fast
    one.free.clear()
    two.free.clear()
    jobs = [job_of(value=v, plan=plan(estimation=60)) for v in range(6)]
    fleet.submit(jobs)
    homes = [job.homes for job in jobs]
    one.free.set()
    two.free.set()
    for job in jobs:
        job.future.result(WAIT)
    assert all(len(home) == 1 for home in homes)
    assert sorted(homes.count((engine,)) for engine in fleet.engines) == [3, 3]


def test_a_large_job_is_computed_by_all_and_joined_in_order(make_fleet):
    one, two = Counting(), Counting()
    fleet = make_fleet(one, two)
    before = one.calls, two.calls
    job = job_of(plan=plan(**LARGE))
    shared = result_of(fleet, job)
    assert len(job.homes) == 2
    assert one.calls > before[0] + 20
    assert two.calls > before[1] + 20
    reference = alone(job_of(plan=plan(**LARGE)))
    np.testing.assert_array_equal(shared.embedding, reference.embedding)
    assert shared.verdict.findings.bounds == reference.verdict.findings.bounds
    assert shared.fidelity == reference.fidelity


def test_a_large_job_that_stops_early_stops_everywhere(make_fleet):
    fleet = make_fleet()
    how = {"estimation": 20_000, "target": Target(radius=0.02, bound=0.8)}
    shared = result_of(fleet, job_of(plan=plan(**how)))
    reference = alone(job_of(plan=plan(**how)))
    assert shared.verdict.stopped == reference.verdict.stopped == "target"
    assert shared.verdict.findings.samples == reference.verdict.findings.samples
    assert shared.verdict.findings.bounds == reference.verdict.findings.bounds
    assert fleet.wait_idle(WAIT)
    assert fleet.pending_samples == 0


def test_a_slow_engine_does_not_let_features_of_the_other_pile_up(make_fleet, monkeypatch):
    monkeypatch.setattr("service.attempt._MOST_WAITING_BYTES", 0)  # the floor: 64 samples
    one, two = Counting(), Counting()
    fleet = make_fleet(one, two)
    one.free.clear()
    job = job_of(plan=plan(**LARGE))
    fleet.submit([job])
    time.sleep(0.3)
    handed = job.total - job.outstanding
    assert handed <= job.work.attempt.tallied + 64 < job.total
    one.free.set()
    assert job.future.result(WAIT).verdict.findings.samples == 2000


def test_engines_of_different_functions_do_not_share_a_job(make_fleet):
    fleet = make_fleet(batch_sizes=(4, 8))
    job = job_of(plan=plan(**LARGE))
    result = result_of(fleet, job)
    assert len(job.homes) == 1
    assert result.model.revision == job.homes[0].model("tiny").revision


def test_a_lost_engine_leaves_the_others_at_work(make_fleet):
    broken = Rotation()
    fleet = make_fleet(broken, Rotation())
    broken.fails_on = lambda pixels: True
    jobs = [job_of(value=v) for v in range(8)]
    fleet.submit(jobs)
    told = []
    for job in jobs:
        try:
            job.future.result(WAIT)
        except ServiceError as error:
            assert job.homes == (fleet.engines[0],)
            told.append(error.kind)
    assert told
    fleet.engines[0]._thread.join(WAIT)
    assert fleet.engines[0].lost
    assert fleet.fault is None
    assert not fleet.lost
    for v in range(5):
        assert result_of(fleet, job_of(value=v)).verdict is not None
    assert fleet.model("tiny") is fleet.engines[1].model("tiny")


def test_without_a_working_engine_nothing_is_accepted(make_fleet):
    one, two = Rotation(), Rotation()
    fleet = make_fleet(one, two)
    one.fails_on = two.fails_on = lambda pixels: True
    for _ in range(2):
        job = job_of(plan=plan(**LARGE))
        fleet.submit([job])
        with pytest.raises(ServiceError):
            job.future.result(WAIT)
        if fleet.fault:
            break
    for engine in fleet.engines:
        engine._thread.join(WAIT)
    assert fleet.lost
    with pytest.raises(ServiceError) as caught:
        fleet.submit([job_of()])
    assert caught.value.kind is Kind.UNAVAILABLE


def test_a_shared_job_starts_over_on_the_engine_whose_batch_was_halved(make_fleet):
    one, two = Rotation(), Rotation()
    fleet = make_fleet(one, two)
    one.error = MemoryError("out of memory")
    one.fails_on = lambda pixels: len(pixels) > 2
    job = job_of(plan=plan(**LARGE))
    result = result_of(fleet, job)
    assert job.homes == (fleet.engines[0],)
    assert result.model.batch_size == 2
    assert result.verdict.findings.samples == 2000


def test_deadlines_of_shared_jobs_pass_on_all_engines_at_once(make_fleet):
    """Each engine answers one job of both, and each answer is news for both engines."""
    fleet = make_fleet()
    both = threading.Barrier(2, timeout=2)
    soon = time.monotonic() + 0.3
    jobs = [job_of(value=v, plan=plan(estimation=100_000), deadline=soon) for v in (1, 2)]
    for job in jobs:
        job.future.add_done_callback(lambda _: both.wait())
    fleet.submit(jobs)
    for job in jobs:
        with pytest.raises(ServiceError, match="deadline"):
            job.future.result(WAIT)
    asking = threading.Thread(target=fleet.wait_idle, args=(WAIT,), daemon=True)
    asking.start()
    asking.join(WAIT)
    assert not asking.is_alive(), "the engines wait for each other"


def test_an_attempt_is_resumed_by_engines_of_its_own_shape_only():
    job, old, new = job_of(), tiny_model(), tiny_model(batch_size=2)
    told = []

    class Halved:
        def resume(self, work):
            job.begin(new, (self,))

    class Other:
        def resume(self, work):
            told.append(work)

    work = job.begin(old, (Halved(), Other()))
    work.resume()
    assert told == [work]
    assert work.abandoned
    assert job.work.attempt.model is new


def test_samples_computed_in_vain_are_taken_back_exactly():
    counted = []
    job = job_of(progress=counted.append)
    first = job.begin(tiny_model(), ())
    release = first.attempt.release

    def last_moment():  # another engine's features come while the job starts over
        row = np.eye(1, 4, dtype=np.float32)
        counted.append(first.attempt.add(Stage.CLEAN, 0, (row, row[:, 0]), lambda _: None))
        release()

    first.attempt.release = last_moment
    job.begin(tiny_model(batch_size=2), ())
    assert counted == [1, -1]


def test_the_pictures_of_a_request_go_to_engines_of_one_revision(make_fleet):
    fleet = make_fleet(batch_sizes=(4, 2))
    jobs = [job_of(value=v, plan=plan(estimation=60)) for v in range(6)]
    fleet.submit(jobs)
    assert len({job.future.result(WAIT).model.revision for job in jobs}) == 1
    later = [job_of(value=v, plan=plan(estimation=60)) for v in range(6)]
    for job in later:
        fleet.submit([job])
    assert len({job.future.result(WAIT).model.revision for job in later}) == 2


def test_a_job_that_moved_outlives_the_engine_that_it_left(make_fleet):
    one = Rotation()
    fleet = make_fleet(one, Rotation())
    one.error = MemoryError("out of memory")
    one.fails_on = lambda pixels: len(pixels) > 2
    job = job_of(plan=plan(estimation=5000))
    fleet.submit([job])
    while job.homes != (fleet.engines[0],):
        time.sleep(0.001)
    fleet.engines[1]._suspend("lost")
    assert job not in fleet.engines[1].jobs
    assert job.future.result(WAIT).model.batch_size == 2


def test_every_engine_waits_for_the_statistics_that_it_adds_to(make_fleet):
    engine = make_fleet().engines[0]
    waits = []

    class Elsewhere:
        """Another engine, which makes the statistics and computes nothing."""

        resume = found = staticmethod(lambda *_: None)
        wait_for_room = staticmethod(lambda: waits.append(1))

    job = job_of()
    job.begin(engine.model("tiny"), (Elsewhere(), engine))
    engine.accept(job)
    end = time.monotonic() + WAIT
    while job.work.attempt.tallied < job.total:
        assert time.monotonic() < end
        time.sleep(0.001)
    assert job.future.cancel()
    assert len(waits) >= 15  # after each batch of four


def test_a_request_stays_on_one_revision_where_a_device_was_halved(make_fleet):
    """Spread over two, it would be computed again and again: its answer names one."""
    fleet = make_fleet(batch_sizes=(2, 4))
    for count in (2, 5):
        jobs = [job_of(value=value) for value in range(count)]
        fleet.submit(jobs)
        results = [job.future.result(WAIT) for job in jobs]
        assert len({result.model.revision for result in results}) == 1
