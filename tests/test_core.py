import asyncio
import threading
import time

import numpy as np
import pytest

from service.access.keys import digest
from service.caller import Caller, calling
from service.config import Settings
from service.core import Core
from service.errors import ConfigurationError, Kind, ServiceError
from service.job import JobResult
from service.models import catalogue
from service.pictures.decode import decode
from service.scheduler import Scheduler
from service.types import EmbedRequest, Target
from tests.tiny import Rotation, picture, revision_at, tiny_model

SMALL = {"samples": 50, "selection_samples": 10}


def run(scenario, model=None, monkeypatch=None, **settings):
    """Run `scenario(core)` against a started core over the tiny model."""

    async def main():
        core = Core(Settings(drain_ms=5000, **settings))
        await core.start()
        try:
            return await scenario(core)
        finally:
            await core.drain()

    return asyncio.run(main())


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    model = tiny_model()
    monkeypatch.setattr(catalogue, "load_model", lambda *_: model)
    return model


def request_of(*images, **fields):
    return EmbedRequest(images=images or (picture(),), **{**SMALL, **fields})


def test_a_request_is_answered_in_the_order_of_its_pictures():
    async def scenario(core):
        dark, light = picture((0, 0, 0)), picture((255, 255, 255))
        return await core.embed(request_of(dark, light, dark, selection_samples=400))

    result = run(scenario)
    first, second, third = (np.frombuffer(item.values, "<f4") for item in result.data)
    assert np.allclose(first, third, atol=0.05)
    assert not np.allclose(first, second, atol=0.2)
    assert result.timing.total_ms >= result.timing.queue_ms


def test_every_picture_has_a_seed_of_its_own():
    async def scenario(core):
        one = await core.embed(request_of(picture(), picture()))
        two = await core.embed(request_of())
        return [item.certificate.seed for item in (*one.data, *two.data)]

    seeds = run(scenario)
    assert len(set(seeds)) == 3
    assert all(len(seed) == 32 for seed in seeds)


def test_an_allowed_client_seed_repeats_the_answer_and_is_declared():
    async def scenario(core):
        request = request_of(picture(), picture(), seed="ab" * 16)
        return await core.embed(request), await core.embed(request)

    one, two = run(scenario, allow_client_seed=True)
    assert [i.values for i in one.data] == [i.values for i in two.data]
    assert one.data[0].certificate.seed == "ab" * 16
    assert one.data[1].certificate.seed != "ab" * 16
    assert one.data[0].certificate.client_seed
    assert "client chose" in one.data[0].certificate.statement


def test_without_certify_there_is_an_embedding_and_no_certificate():
    result = run(lambda core: core.embed(request_of(certify=False)))
    assert result.data[0].certificate is None
    assert np.linalg.norm(np.frombuffer(result.data[0].values, "<f4")) == pytest.approx(1, abs=1e-6)


def test_a_core_without_a_key_refuses_receipts():
    async def scenario(core):
        assert core.info().public_key is None
        with pytest.raises(ServiceError, match="no key to sign"):
            await core.embed(request_of(receipt=True))

    run(scenario)


def test_one_broken_picture_fails_its_request_and_names_itself():
    async def scenario(core):
        with pytest.raises(ServiceError) as caught:
            await core.embed(request_of(picture(), b"broken"))
        assert core.metrics.registry.get_sample_value("fcs_jobs_running") == 0
        await core.embed(request_of())
        return caught.value

    error = run(scenario)
    assert (error.kind, error.param) == (Kind.INVALID, "inputs[1]")


def test_an_unknown_model_is_refused_with_the_known_ones():
    async def scenario(core):
        with pytest.raises(ServiceError, match="loaded: tiny"):
            await core.embed(request_of(model="huge"))

    run(scenario)


def test_a_passed_deadline_is_told_and_frees_the_device():
    async def scenario(core):
        with pytest.raises(ServiceError) as caught:
            await core.embed(request_of(samples=100_000, timeout_s=0.2))
        assert caught.value.kind is Kind.DEADLINE
        began = time.monotonic()
        while core._servings.present.fleet.pending_samples:
            await asyncio.sleep(0.01)
        return time.monotonic() - began

    assert run(scenario) < 2


def test_a_caller_that_leaves_takes_its_work_along():
    async def scenario(core):
        task = asyncio.create_task(core.embed(request_of(samples=100_000)))
        await asyncio.sleep(0.2)
        assert core._servings.present.fleet.running_jobs == 1
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await asyncio.to_thread(core._servings.present.fleet.wait_idle, 5)
        assert core._servings.present.fleet.pending_samples == 0
        assert core._reservations.pictures == 0

    run(scenario)


@pytest.mark.parametrize(
    "limits",
    [{"max_pending_pictures": 2}, {"max_pending_samples": 100_500}, {"max_pending_bytes": 10**6}],
    ids=str,
)
def test_a_full_queue_refuses_at_once_with_a_delay(limits):
    async def scenario(core):
        waiting = asyncio.create_task(core.embed(request_of(picture(), samples=100_000)))
        await asyncio.sleep(0.1)
        began = time.monotonic()
        with pytest.raises(ServiceError) as caught:
            await core.embed(request_of(picture(), picture(), samples=5000))
        refused_after = time.monotonic() - began
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        await core.embed(request_of())
        return caught.value, refused_after

    error, refused_after = run(scenario, **limits)
    assert refused_after < 1
    assert error.kind is Kind.BUSY
    assert error.retry_after_s >= 1


def test_a_request_larger_than_the_queue_is_served_when_alone():
    result = run(lambda core: core.embed(request_of(samples=500)), max_pending_samples=100)
    assert result.data[0].certificate.estimation_samples == 500


def test_work_before_the_start_and_while_draining_is_refused():
    async def scenario():
        core = Core(Settings(drain_ms=5000))
        for action in (lambda: core.embed(request_of()), None):
            if action is not None:
                with pytest.raises(ServiceError, match="loading") as caught:
                    await action()
                assert caught.value.kind is Kind.UNAVAILABLE
        assert not core.health().ready
        await core.start()
        assert core.health().ready
        accepted = asyncio.create_task(core.embed(request_of(samples=3000)))
        await asyncio.sleep(0.1)
        draining = asyncio.create_task(core.drain())
        await asyncio.sleep(0)
        with pytest.raises(ServiceError, match="draining"):
            await core.embed(request_of())
        await draining
        return await accepted

    result = asyncio.run(scenario())
    assert result.data[0].certificate.estimation_samples == 3000


def test_a_drain_that_takes_too_long_fails_what_is_left():
    async def scenario():
        core = Core(Settings(drain_ms=100))
        await core.start()
        accepted = asyncio.create_task(core.embed(request_of(samples=100_000)))
        await asyncio.sleep(0.1)
        await core.drain()
        with pytest.raises(ServiceError, match="shutting down") as caught:
            await accepted
        return caught.value.kind

    assert asyncio.run(scenario()) is Kind.UNAVAILABLE


def test_pictures_that_wait_to_be_decoded_at_the_end_of_a_drain_are_refused(monkeypatch):
    decoding, free = threading.Semaphore(0), threading.Event()

    def slow(*arguments):
        decoding.release()
        assert free.wait(20)
        return decode(*arguments)

    monkeypatch.setattr("service.embedding.decode", slow)

    async def scenario():
        core = Core(Settings(drain_ms=100))
        await core.start()
        asked = [asyncio.create_task(core.embed(request_of())) for _ in range(4)]
        for _ in range(2):
            await asyncio.to_thread(decoding.acquire, timeout=20)
        await core.drain()
        free.set()
        return await asyncio.gather(*asked, return_exceptions=True)

    refused = asyncio.run(scenario())
    assert [one.kind for one in refused] == [Kind.UNAVAILABLE] * 4


def test_a_lost_device_turns_readiness_off(monkeypatch):
    async def scenario(core):
        def die(*_):
            raise SystemError("gone")

        monkeypatch.setattr(Scheduler, "next_batch", die)
        with pytest.raises(ServiceError) as caught:
            await core.embed(request_of())
        assert caught.value.kind is Kind.UNAVAILABLE
        while core.health().alive:  # it is restarted once, and dies again
            await asyncio.sleep(0.01)
        health = core.health()
        assert not health.ready
        assert "SystemError" in health.reason

    run(scenario)


def test_two_models_of_one_name_end_the_start():
    async def scenario():
        core = Core(Settings(extra_models=("another/tiny",)))
        try:
            with pytest.raises(ConfigurationError, match="two models are called 'tiny'"):
                await core.start()
        finally:
            await core.drain()

    asyncio.run(scenario())


def test_a_model_that_fails_its_warm_up_ends_the_start(tiny, monkeypatch):
    encoder = Rotation()
    encoder.fails_on = lambda pixels: True
    broken = tiny_model(encoder=encoder)
    monkeypatch.setattr(catalogue, "load_model", lambda *_: broken)

    async def scenario():
        core = Core(Settings())
        try:
            with pytest.raises(ConfigurationError, match="refused this batch"):
                await core.start()
            assert not core.health().ready
        finally:
            await core.drain()

    asyncio.run(scenario())


def test_one_answer_names_one_revision_though_a_batch_was_halved_in_between(tiny):
    """The first picture is answered before the memory runs out, the second after."""

    async def scenario(core):
        work = core.embed(request_of(picture((0, 0, 0)), picture(), samples=4000, target=None))
        running = asyncio.ensure_future(work)
        engine = core._servings.present.fleet.engines[0]
        while len(engine.jobs) != 2:
            await asyncio.sleep(0.001)
        first = next(job for job in engine.jobs if job.image.max() == 0)
        result = answered_early(first)
        first.future.set_result(result)
        tiny.pipeline.encoder.error = MemoryError()
        tiny.pipeline.encoder.fails_on = lambda pixels: len(pixels) > 2
        answer = await running
        assert answer.revision == core.info().models[0].revision == revision_at(2)
        embeddings = {item.values for item in answer.data}
        assert result.embedding.tobytes() not in embeddings
        return answer

    run(scenario)


def answered_early(job):
    """A result of the revision that the job began with."""
    return JobResult(
        np.ones(4, np.float32) / 2, 1.0, None, None, 0, 0, 0, job.work.attempt.model, None
    )


def test_a_key_pays_for_the_samples_that_were_drawn_and_for_no_others(tmp_path):
    file = tmp_path / "keys.toml"
    file.write_text(f'[keys.ann]\nsha256 = "{digest("k")}"\nsamples_per_minute = 2000\n')
    early = {"samples": 1500, "target": Target(0.01, 0.1)}

    async def scenario(core):
        with calling(Caller("id", "ann")):
            stopped = await core.embed(request_of(**early))
            spent = stopped.data[0].certificate.estimation_samples
            assert spent < 1000
            with pytest.raises(ServiceError):
                await core.embed(request_of(b"no picture", samples=1500))  # costs nothing
            core.gate.check_samples(900)
            with pytest.raises(ServiceError) as over:
                core.gate.check_samples(2000)
            with pytest.raises(ServiceError) as never:
                await core.embed(request_of(samples=3000))
        await core.embed(request_of(samples=3000))  # of nobody
        return over.value.kind, never.value.kind

    kinds = run(scenario, api_keys=file)
    assert kinds == (Kind.RATE, Kind.INVALID)
