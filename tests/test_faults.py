"""What happens when a picture, the memory, the device thread or a device call fails."""

import threading
import time

import numpy as np
import pytest

from service.errors import Kind, ServiceError
from service.fleet import Fleet
from service.metrics import Metrics
from service.models import sampler
from tests.engines import WAIT, job_of, result_of, value_of
from tests.tiny import Rotation, plan, revision_at, tiny_model


@pytest.fixture
def make_fleet():
    fleets = []

    def make(*models, **options):
        fleet = Fleet([{m.name: m for m in models}], Metrics("test"), **options)
        fleet.start()
        fleets.append(fleet)
        return fleet

    yield make
    for fleet in fleets:
        fleet.stop()


def out_of_memory_above(encoder, rows):
    """The encoder fits batches of so many rows from now on."""
    encoder.fails_on = lambda pixels: len(pixels) > rows
    encoder.error = MemoryError("out of memory")


def in_turn(*errors, then=lambda: False):
    """For `Rotation.fails_on`: each call raises the next of these; from then on as `then` says."""
    left = iter(errors)

    def fails(_):
        if error := next(left, None):
            raise error
        return then()

    return fails


def die(fleet, monkeypatch, error):
    """The device thread meets an error when it next looks for work."""
    monkeypatch.setattr(fleet.engines[0]._scheduler, "next_batch", in_turn(error))


def metrics_of(fleet):
    return fleet.engines[0]._metrics


def until(condition):
    end = time.monotonic() + WAIT
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)


def test_a_job_that_cannot_be_prepared_fails_alone(make_fleet):
    fleet = make_fleet(tiny_model())
    good = [job_of(value=v) for v in (1, 2)]
    bad = job_of(image=np.zeros((3, 5, 5), np.uint8))
    fleet.submit([good[0], bad, good[1]])
    with pytest.raises(ServiceError, match="could not be computed") as caught:
        bad.future.result(WAIT)
    assert caught.value.kind is Kind.INTERNAL
    for job in good:
        assert job.future.result(WAIT).verdict is not None
    assert fleet.fault is None


def test_a_job_that_poisons_its_batch_fails_alone(make_fleet):
    encoder = Rotation()
    encoder.fails_on = lambda pixels: bool((pixels[:, 1] > 0.99).flatten(1).all(1).any())
    fleet = make_fleet(tiny_model(encoder=encoder))
    good = [job_of(value=v) for v in (10, 20, 30)]
    bad = job_of(plan=plan(sigma=0.0001), value=255)
    encoder.fails_on = lambda pixels: bool((pixels[:, 1].flatten(1).amin(1) > 0.95).any())
    fleet.submit([*good[:2], bad, good[2]])
    with pytest.raises(ServiceError, match="RuntimeError"):
        bad.future.result(WAIT)
    reference = [result_of(fleet, job_of(value=v)) for v in (10, 20, 30)]
    for job, alone in zip(good, reference, strict=True):
        np.testing.assert_array_equal(job.future.result(WAIT).embedding, alone.embedding)


def test_a_device_that_fails_whatever_it_is_given_is_lost(make_fleet):
    encoder = Rotation()
    fleet = make_fleet(tiny_model(encoder=encoder))
    encoder.fails_on = lambda pixels: True
    jobs = [job_of(), job_of()]
    fleet.submit(jobs)
    for job in jobs:
        with pytest.raises(ServiceError):
            job.future.result(WAIT)
    fleet.engines[0]._thread.join(WAIT)
    assert fleet.lost
    assert "RuntimeError" in fleet.fault


def test_a_device_that_fails_is_restarted_once_and_works_again(make_fleet):
    encoder = Rotation()
    fleet = make_fleet(tiny_model(encoder=encoder))
    broken = threading.Event()
    encoder.fails_on = lambda pixels: broken.is_set()
    broken.set()
    job = job_of()
    job.future.add_done_callback(lambda _: broken.clear())
    fleet.submit([job])
    with pytest.raises(ServiceError):
        job.future.result(WAIT)
    broken.clear()
    until(lambda: fleet.fault is None)
    assert result_of(fleet, job_of()).verdict is not None


def test_a_dead_device_thread_tells_every_waiter_and_is_restarted_once(make_fleet, monkeypatch):
    fleet = make_fleet(tiny_model())
    engine = fleet.engines[0]
    restart = threading.Event()
    revive = engine._device.revive

    def slowly(timeout_s):
        assert restart.wait(WAIT)
        revive(timeout_s)

    monkeypatch.setattr(engine._device, "revive", slowly)

    def die(*_):
        raise SystemError("the device fell off the bus")

    for death in (1, 2):
        monkeypatch.setattr(engine._scheduler, "next_batch", die)
        jobs = [job_of(), job_of()]
        fleet.submit(jobs)
        for job in jobs:
            with pytest.raises(ServiceError) as caught:
                job.future.result(WAIT)
            assert caught.value.kind is Kind.UNAVAILABLE
        assert "SystemError" in fleet.fault
        with pytest.raises(ServiceError, match="device thread died"):
            fleet.submit([job_of()])
        if death == 1:
            assert not fleet.lost
            restart.set()
            until(lambda: fleet.fault is None)
            assert result_of(fleet, job_of()).verdict is not None
    until(lambda: fleet.lost)
    assert value_of(metrics_of(fleet), "fcs_device_restarts_total") == 1


def test_out_of_memory_halves_the_batch_and_the_jobs_start_over(make_fleet):
    encoder = Rotation()
    fleet = make_fleet(tiny_model(encoder=encoder, batch_size=8, lanes=2))
    counted = []
    long = job_of(plan=plan(estimation=4000), progress=counted.append)
    fleet.submit([long])
    until(lambda: sum(counted) > 200)
    out_of_memory_above(encoder, 3)
    others = [job_of(value=v) for v in (1, 2, 3)]
    fleet.submit(others)
    results = [job.future.result(WAIT) for job in (long, *others)]
    assert {result.model.batch_size for result in results} == {2}
    assert {result.model.revision for result in results} == {revision_at(2)}
    assert fleet.model("tiny").batch_size == 2
    assert sum(counted) == long.total
    assert min(counted) < 0
    assert value_of(metrics_of(fleet), "fcs_batch_halvings_total") == 2
    alone = result_of(make_fleet(tiny_model(batch_size=2)), job_of(plan=plan(estimation=4000)))
    np.testing.assert_array_equal(results[0].embedding, alone.embedding)
    assert results[0].verdict.findings.bounds == alone.verdict.findings.bounds


def test_a_watch_sees_the_samples_of_one_attempt_only(make_fleet):
    encoder = Rotation()
    fleet = make_fleet(tiny_model(encoder=encoder, batch_size=8))

    class Count:
        def __init__(self):
            self.rows = 0

        def add(self, stage, features, embedding):
            self.rows += len(features)

    made = []

    def make():
        made.append(Count())
        return made[-1]

    job = job_of(plan=plan(estimation=3000), make_watch=make)
    fleet.submit([job])
    until(lambda: made and made[0].rows > 100)
    out_of_memory_above(encoder, 4)
    watch = job.future.result(WAIT).watch
    assert len(made) == 2
    assert watch is made[1]
    assert watch.rows == job.total


def test_memory_for_not_even_one_sample_loses_the_device(make_fleet):
    encoder = Rotation()
    fleet = make_fleet(tiny_model(encoder=encoder))
    out_of_memory_above(encoder, 0)
    job = job_of()
    fleet.submit([job])
    with pytest.raises(ServiceError) as caught:
        job.future.result(WAIT)
    assert caught.value.kind is Kind.UNAVAILABLE
    until(lambda: fleet.lost)


def test_a_stuck_call_is_noticed_and_work_goes_on_when_it_returns(make_fleet):
    encoder = Rotation()
    fleet = make_fleet(tiny_model(encoder=encoder), device_timeout_s=0.3)
    stuck = threading.Event()
    encoder.fails_on = lambda pixels: not stuck.wait(WAIT)
    jobs = [job_of(), job_of()]
    fleet.submit(jobs)
    for job in jobs:
        with pytest.raises(ServiceError, match="has not returned") as caught:
            job.future.result(WAIT)
        assert caught.value.kind is Kind.UNAVAILABLE
    assert fleet.lost
    with pytest.raises(ServiceError, match="has not returned"):
        fleet.submit([job_of()])
    stuck.set()
    until(lambda: fleet.fault is None)
    assert not fleet.lost
    assert result_of(fleet, job_of()).verdict is not None


def test_a_slow_device_is_not_taken_for_stuck(make_fleet):
    encoder = Rotation()
    fleet = make_fleet(tiny_model(encoder=encoder), device_timeout_s=0.5)
    encoder.fails_on = lambda pixels: time.sleep(0.1)
    assert result_of(fleet, job_of()).verdict is not None  # 16 batches, 0.8 s in two lanes
    assert fleet.fault is None


def test_stopping_does_not_wait_for_a_stuck_call():
    encoder = Rotation()
    fleet = Fleet([{"tiny": tiny_model(encoder=encoder)}], Metrics("test"), device_timeout_s=60)
    fleet.start()
    stuck = threading.Event()
    encoder.fails_on = lambda pixels: not stuck.wait(WAIT)
    job = job_of()
    fleet.submit([job])
    time.sleep(0.05)
    began = time.monotonic()
    fleet.stop()
    assert time.monotonic() - began < 5
    with pytest.raises(ServiceError, match="shutting down"):
        job.future.result(WAIT)
    stuck.set()


def test_work_past_its_deadline_ends_without_its_caller(make_fleet):
    fleet = make_fleet(tiny_model())
    late = job_of(plan=plan(estimation=100_000), deadline=time.monotonic() + 0.2)
    fleet.submit([late])
    with pytest.raises(ServiceError) as caught:
        late.future.result(WAIT)
    assert caught.value.kind is Kind.DEADLINE
    assert late.outstanding > 0
    assert fleet.wait_idle(WAIT)


def test_memory_that_runs_out_while_jobs_run_apart_halves_the_batch(make_fleet):
    encoder = Rotation()
    fleet = make_fleet(tiny_model(encoder=encoder, lanes=1))
    calls = iter([RuntimeError("once")])

    def fails(pixels):
        encoder.error = next(calls, MemoryError("out of memory"))
        return len(pixels) > 2

    encoder.fails_on = fails
    assert result_of(fleet, job_of()).model.batch_size == 2


def test_memory_that_runs_out_while_noise_is_drawn_halves_the_batch(make_fleet, monkeypatch):
    fleet = make_fleet(tiny_model(lanes=1))
    add_noise = sampler.add_noise

    def once(*arguments):
        monkeypatch.setattr(sampler, "add_noise", add_noise)
        raise MemoryError

    monkeypatch.setattr(sampler, "add_noise", once)
    assert result_of(fleet, job_of()).model.batch_size == 2


def test_samples_that_run_apart_are_counted(make_fleet):
    encoder = Rotation()
    fleet = make_fleet(tiny_model(encoder=encoder, lanes=1))
    calls = iter([True])
    encoder.fails_on = lambda pixels: next(calls, False)
    result_of(fleet, job_of())
    counted = [
        value_of(metrics_of(fleet), "fcs_samples_total", stage=stage)
        for stage in ("clean", "select", "estimate")
    ]
    assert counted == [1, 10, 50]


def test_halvings_of_an_odd_batch_are_whole(make_fleet):
    encoder = Rotation()
    fleet = make_fleet(tiny_model(encoder=encoder, batch_size=3))
    out_of_memory_above(encoder, 1)
    result_of(fleet, job_of())
    assert value_of(metrics_of(fleet), "fcs_batch_halvings_total") == 1


def test_a_listener_that_fails_when_a_job_starts_over_fails_that_job_alone(make_fleet):
    encoder = Rotation()
    fleet = make_fleet(tiny_model(encoder=encoder))

    def fails_going_back(count):
        if count < 0:
            raise ValueError("a listener")

    long = plan(estimation=4000)
    bad, good = job_of(plan=long, progress=fails_going_back), job_of(plan=long)
    fleet.submit([bad, good])
    until(lambda: bad.total - bad.outstanding > 100)
    out_of_memory_above(encoder, 2)
    with pytest.raises(ServiceError, match="ValueError"):
        bad.future.result(WAIT)
    assert good.future.result(WAIT).model.batch_size == 2


def test_a_device_that_dies_short_of_memory_comes_back_in_a_smaller_shape(make_fleet, monkeypatch):
    encoder = Rotation()
    fleet = make_fleet(tiny_model(encoder=encoder, batch_size=8))
    out_of_memory_above(encoder, 3)
    die(fleet, monkeypatch, SystemError("gone"))
    job = job_of()
    fleet.submit([job])
    with pytest.raises(ServiceError, match="device thread died"):
        job.future.result(WAIT)
    until(lambda: fleet.fault is None)
    assert result_of(fleet, job_of()).model.batch_size == 2
    assert value_of(metrics_of(fleet), "fcs_batch_halvings_total") == 2
    assert value_of(metrics_of(fleet), "fcs_device_restarts_total") == 1


def test_a_device_that_dies_with_memory_for_not_even_one_sample_is_lost(make_fleet, monkeypatch):
    encoder = Rotation()
    fleet = make_fleet(tiny_model(encoder=encoder))
    out_of_memory_above(encoder, 0)
    die(fleet, monkeypatch, SystemError("gone"))
    job = job_of()
    fleet.submit([job])
    with pytest.raises(ServiceError, match="device thread died"):
        job.future.result(WAIT)
    until(lambda: fleet.lost)


@pytest.mark.parametrize(
    "error",
    [
        pytest.param(MemoryError("out of memory"), id="while the batch is halved"),
        pytest.param(RuntimeError("once"), id="while jobs run apart"),
        pytest.param(SystemError("gone"), id="while the device is revived"),
    ],
)
def test_a_call_that_sticks_is_told_and_work_goes_on_when_it_returns(
    make_fleet, monkeypatch, error
):
    encoder = Rotation()
    fleet = make_fleet(tiny_model(encoder=encoder), device_timeout_s=0.3)
    free = threading.Event()
    failures = (error, error)  # one for each lane
    if isinstance(error, SystemError):
        die(fleet, monkeypatch, error)
        failures = ()
    encoder.fails_on = in_turn(*failures, then=lambda: not free.wait(WAIT))
    job = job_of()
    fleet.submit([job])
    with pytest.raises(ServiceError) as caught:
        job.future.result(WAIT / 2)
    assert caught.value.kind is Kind.UNAVAILABLE
    until(lambda: "has not returned" in (fleet.fault or ""))
    assert fleet.lost
    free.set()
    until(lambda: fleet.fault is None)
    assert not fleet.lost
    assert result_of(fleet, job_of()).verdict is not None


def test_a_device_that_fails_after_its_stuck_call_returned_has_its_restart_still(
    make_fleet, monkeypatch
):
    encoder = Rotation()
    fleet = make_fleet(tiny_model(encoder=encoder, lanes=1), device_timeout_s=0.3)
    free, short = threading.Event(), MemoryError("out of memory")
    encoder.fails_on = in_turn(short, then=lambda: not free.wait(WAIT))
    device = fleet.engines[0]._device
    revive, refusals = device.revive, iter([RuntimeError("not yet")])

    def refuses_once(timeout_s):
        if error := next(refusals, None):
            raise error
        revive(timeout_s)

    monkeypatch.setattr(device, "revive", refuses_once)
    job = job_of()
    fleet.submit([job])
    with pytest.raises(ServiceError, match="has not returned"):
        job.future.result(WAIT)
    free.set()
    until(lambda: fleet.fault is None)
    assert next(refusals, None) is None
    assert value_of(metrics_of(fleet), "fcs_device_restarts_total") == 1
    assert result_of(fleet, job_of()).verdict is not None


@pytest.mark.parametrize("error", [RuntimeError("broken"), SystemExit()], ids=repr)
def test_a_device_that_fails_when_it_is_revived_is_lost(make_fleet, error):
    encoder = Rotation()
    fleet = make_fleet(tiny_model(encoder=encoder))
    encoder.error, encoder.fails_on = error, lambda pixels: True
    job = job_of()
    fleet.submit([job])
    with pytest.raises(ServiceError):
        job.future.result(WAIT)
    until(lambda: fleet.lost)
    assert type(error).__name__ in fleet.fault


def test_another_error_after_a_halving_halves_no_further(make_fleet):
    encoder = Rotation()
    fleet = make_fleet(tiny_model(encoder=encoder, batch_size=64, lanes=1))
    passing = RuntimeError("passing")
    encoder.fails_on = in_turn(MemoryError("out of memory"), passing, passing)
    job = job_of()
    fleet.submit([job])
    with pytest.raises(ServiceError, match="RuntimeError"):
        job.future.result(WAIT)
    until(lambda: fleet.fault is None)
    assert result_of(fleet, job_of()).model.batch_size == 32
    assert value_of(metrics_of(fleet), "fcs_batch_halvings_total") == 1


def test_a_slow_device_is_not_taken_for_stuck_where_jobs_run_apart_behind_others(make_fleet):
    encoder = Rotation()
    fleet = make_fleet(tiny_model(encoder=encoder, lanes=1), device_timeout_s=1.0)
    calls = iter([True])

    def slowly(pixels):
        time.sleep(0.4)
        return next(calls, False)

    encoder.fails_on = slowly
    jobs = [job_of(value=v, plan=plan(selection=2, estimation=5)) for v in range(4)]
    fleet.submit(jobs)
    for job in jobs:
        assert job.future.result(WAIT).verdict is not None


def test_a_call_that_sticks_while_the_batch_is_halved_holds_no_stop():
    encoder = Rotation()
    fleet = Fleet([{"tiny": tiny_model(encoder=encoder)}], Metrics("test"), device_timeout_s=0.3)
    fleet.start()
    free = threading.Event()
    encoder.error = MemoryError("out of memory")
    encoder.fails_on = lambda pixels: len(pixels) > 2 or not free.wait(WAIT)
    job = job_of()
    fleet.submit([job])
    with pytest.raises(ServiceError, match="has not returned") as caught:
        job.future.result(WAIT / 2)
    assert caught.value.kind is Kind.UNAVAILABLE
    began = time.monotonic()
    fleet.stop()
    assert time.monotonic() - began < 8
    free.set()
