"""What a listener hears of a request, from a started core over the tiny model."""

import asyncio
import errno
from concurrent.futures import Future

import pytest

from service.audit.log import open_log
from service.config import Settings
from service.core import Core
from service.errors import ServiceError
from service.fleet import Fleet
from service.following import Following
from service.metrics import Metrics
from service.models import catalogue
from service.receipts.signing import load_signer
from service.rest.stream import EventStream
from service.types import (
    Accepted,
    BoundSoFar,
    Checkpoint,
    Drawn,
    EmbedRequest,
    Look,
    Target,
)
from tests.engines import job_of, result_of
from tests.tiny import picture, plan, tiny_model

TARGET = Target(0.25, 0.93)


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    monkeypatch.setattr(catalogue, "load_model", lambda *_: tiny_model())


def run(scenario, **settings):
    async def main():
        core = Core(Settings(drain_ms=5000, **settings))
        await core.start()
        try:
            return await scenario(core)
        finally:
            await core.drain()

    return asyncio.run(main())


def request_of(count=1, **fields):
    images = tuple(picture((40 * i, 60, 90)) for i in range(count))
    return EmbedRequest(images=images, selection_samples=20, **fields)


def followed(request):
    async def scenario(core):
        heard = []
        result = await core.embed(request, listener=heard.append)
        told = len(heard)
        await asyncio.sleep(0.1)
        assert len(heard) == told
        return heard, result

    return run(scenario)


def test_acceptance_comes_first_and_every_pictures_last_checkpoint_before_the_answer():
    heard, result = followed(request_of(3, samples=400, target=TARGET))
    assert heard[0] == Accepted()
    assert heard.count(Accepted()) == 1
    for index, item in enumerate(result.data):
        own = [event for event in heard[1:] if event.index == index]
        assert all(isinstance(event, Checkpoint) for event in own)
        assert [event.estimation for event in own] == [
            n for n in item.certificate.checkpoints if n <= item.certificate.estimation_samples
        ]
        assert own[-1].stopped == item.certificate.stopped
        assert {event.stopped for event in own[:-1]} <= {None}


def test_without_a_target_only_counts_are_told_before_the_end():
    heard, _ = followed(request_of(samples=300, target=None))
    *counts, last = heard[1:]
    assert all(isinstance(event, Drawn) for event in counts)
    assert (last.stopped, last.target, last.reached) == ("samples", None, None)


def test_the_callers_own_progress_is_not_lost_beside_a_listener():
    async def scenario(core):
        counts, heard = [], []
        await core.embed(request_of(samples=100, target=None), counts.append, heard.append)
        await core.embed(request_of(samples=48, target=TARGET), counts.append, heard.append)
        return sum(counts)

    assert run(scenario) == 121 + 69


def test_the_last_checkpoint_knows_nothing_of_an_attempt_that_was_given_up():
    """A look under way when its picture starts over is told late: it is of another embedding."""
    own = plan(estimation=100, target=TARGET, radii=(0.125, 0.25))
    fleet = Fleet([{"tiny": tiny_model(lanes=1)}], Metrics("test"))
    fleet.start()
    result = result_of(fleet, job_of(plan=own))
    fleet.stop()

    async def main():
        heard = []
        following = Following(own, heard.append)
        following.on_look(0)(Look(64, tuple(BoundSoFar(r, 0.999) for r in own.radii), True))
        finished = Future()
        finished.set_result(result)
        following.on_finish(0)(finished)
        await asyncio.sleep(0)
        return heard[-1]

    told = [bound.bound for bound in asyncio.run(main()).bounds]
    assert told == [bound.bound for bound in result.verdict.findings.bounds]


def test_nothing_is_told_of_what_was_refused():
    async def scenario(core):
        heard = []
        for request in (request_of(sigma=0.3), EmbedRequest((b"broken",))):
            with pytest.raises(ServiceError):
                await core.embed(request, listener=heard.append)
        return heard

    assert run(scenario) == []


@pytest.mark.parametrize("target", [None, TARGET], ids=["all samples", "a target"])
def test_no_certificate_is_told_at_a_checkpoint_before_it_is_on_record(
    tmp_path, monkeypatch, target
):
    settings = Settings(drain_ms=5000, audit_log=tmp_path / "audit.jsonl", cache_dir=tmp_path)
    signer, metrics = load_signer(settings), Metrics("test")
    audit = open_log(settings, signer, metrics)
    request = request_of(2, samples=200, target=target)
    kept = []

    async def main():
        core = Core(settings, metrics, signer, audit=audit)
        await core.start()
        heard = []
        try:
            with monkeypatch.context() as full:
                full.setattr(audit._file, "append", full_disk)
                with pytest.raises(ServiceError, match="recorded"):
                    await core.embed(request, listener=kept.append)
            while core.health().reason != "ready":
                await asyncio.sleep(0.05)
            result = await core.embed(request, listener=heard.append)
            return heard, result
        finally:
            await core.drain()
            await audit.close()

    def full_disk(*_):
        raise OSError(errno.ENOSPC, "no space left on device")

    heard, result = asyncio.run(main())
    assert not [one for one in kept if isinstance(one, Checkpoint) and one.stopped]
    last = {one.index: one for one in heard if isinstance(one, Checkpoint) and one.stopped}
    assert sorted(last) == [0, 1]
    for index, item in enumerate(result.data):
        assert last[index].estimation == item.certificate.estimation_samples


def test_looks_cost_nothing_where_nobody_listens(monkeypatch):
    def refuse(*_):
        raise AssertionError("bounds so far were computed for nobody")

    monkeypatch.setattr("service.certificate.sequential.bounds_so_far", refuse)

    async def scenario(core):
        return await core.embed(request_of(samples=400, target=TARGET, seed="07" * 16))

    certificate = run(scenario, allow_client_seed=True).data[0].certificate
    assert certificate.estimation_samples > 48


def test_a_reader_that_is_too_slow_gets_the_newest_checkpoint_of_each_picture():
    """It takes the first event and then nothing until the work is over."""

    async def scenario(core):
        chunks, over = [], asyncio.Event()
        request = request_of(2, samples=1000, target=TARGET)
        stream = EventStream(core, request, "float")

        async def send(message):
            chunks.append(message.get("body", b""))
            if chunks[-1].startswith(b"event: checkpoint"):
                await over.wait()

        async def receive():
            await asyncio.Event().wait()

        sending = asyncio.create_task(stream({}, receive, send))
        while core.metrics.registry.get_sample_value("fcs_jobs_running") or not chunks:
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.1)
        over.set()
        await sending
        return [chunk for chunk in chunks if chunk]

    first, *rest, last = run(scenario)
    assert first.startswith(b"event: checkpoint")
    assert len(rest) == 2
    assert all(b'"stopped":"' in chunk for chunk in rest)
    assert last.startswith(b"event: result")


def test_a_client_that_leaves_takes_a_stream_along_even_while_it_is_being_sent_to():
    async def scenario(core):
        left = asyncio.Event()
        scope = {}

        async def send(message):
            if message["type"] == "http.response.body":
                left.set()
                await asyncio.Event().wait()

        async def receive():
            await left.wait()
            return {"type": "http.disconnect"}

        await EventStream(core, request_of(samples=100_000, target=None), "float")(
            scope, receive, send
        )
        await asyncio.to_thread(core._servings.present.fleet.wait_idle, 5)
        return scope, core._servings.present.fleet.running_jobs

    assert run(scenario) == ({"fcs.ended": 499}, 0)
