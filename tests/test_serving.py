"""Models change under requests that go on: none is dropped, none is answered by two of them."""

import asyncio
import threading

import numpy as np
import pytest

from service.config import Settings
from service.core import Core
from service.errors import ConfigurationError, Kind, ServiceError
from service.models import catalogue
from service.receipts.signing import Signer
from service.types import EmbedRequest
from tests.tiny import Rotation, picture, revision_at, tiny_model

SMALL = {"samples": 50, "selection_samples": 10}


class Held(Rotation):
    """Computes when it may; says that it was asked to."""

    def __init__(self, c=0.5):
        super().__init__(c)
        self.free, self.asked = threading.Event(), threading.Event()
        self.free.set()

    def pooled(self, pixels):
        self.asked.set()
        assert self.free.wait(30)
        return super().pooled(pixels)


@pytest.fixture
def store(monkeypatch):
    """What references stand for; a model is called what stands before the slash."""
    found = {"tiny": tiny_model(encoder=Held())}

    def load(reference, *_):
        if reference not in found:
            raise ConfigurationError(f"no model {reference!r}")
        return found[reference]

    monkeypatch.setattr(catalogue, "load_model", load)
    return found


def run(scenario, **settings):
    async def main():
        core = Core(Settings(model="tiny", drain_ms=5000, **settings))
        await core.start()
        try:
            return await asyncio.wait_for(scenario(core), 30)
        finally:
            await core.drain()

    return asyncio.run(main())


def request_of(*images, **fields):
    return EmbedRequest(images=images or (picture(),), **{**SMALL, **fields})


def reloads(core, outcome):
    value = core.metrics.registry.get_sample_value
    return value("fcs_model_reloads_total", {"outcome": outcome})


async def until(condition):
    while not condition():
        await asyncio.sleep(0.01)


def test_a_request_in_work_is_answered_by_what_it_came_to_and_the_next_by_the_new(store):
    store["tiny/2"] = tiny_model(batch_size=2)
    held = store["tiny"].pipeline.encoder

    async def scenario(core):
        held.asked.clear()
        held.free.clear()
        before = asyncio.create_task(core.embed(request_of()))
        await asyncio.to_thread(held.asked.wait)
        told = await core.activate("tiny/2")
        after = await core.embed(request_of())
        assert core.info().models[0].revision == told.revision == revision_at(2)
        assert core.metrics.registry.get_sample_value("fcs_jobs_running") == 1
        held.free.set()
        return await before, after, reloads(core, "changed")

    before, after, changed = run(scenario)
    assert before.revision == revision_at(4)
    assert after.revision == revision_at(2)
    assert changed == 1


def test_the_old_engines_end_with_their_last_request_and_not_before(store):
    store["tiny/2"] = tiny_model(batch_size=2)
    held = store["tiny"].pipeline.encoder

    def devices():
        return sum(thread.name == "fcs-device" for thread in threading.enumerate())

    async def scenario(core):
        alone = devices()
        held.asked.clear()
        held.free.clear()
        before = asyncio.create_task(core.embed(request_of()))
        await asyncio.to_thread(held.asked.wait)
        await core.activate("tiny/2")
        await asyncio.sleep(0.2)
        together = devices()
        held.free.set()
        await before
        await until(lambda: devices() == alone)
        return together - alone

    assert run(scenario) == 1


def test_a_model_that_cannot_be_loaded_or_warmed_changes_nothing(store):
    broken = Rotation()
    broken.fails_on = lambda _: True
    store["broken"] = tiny_model("broken", encoder=broken)

    async def scenario(core):
        with pytest.raises(ConfigurationError, match="no model 'absent'"):
            await core.activate("absent")
        with pytest.raises(ConfigurationError, match="failed its warm-up"):
            await core.activate("broken")
        result = await core.embed(request_of())
        return result.revision, list(core.loaded), reloads(core, "failed")

    assert run(scenario) == (revision_at(4), ["tiny"], 2)


def test_a_model_may_come_beside_and_go_again_but_the_default_stays(store):
    store["other"] = tiny_model("other", encoder=Rotation(0.1))

    async def scenario(core):
        await core.activate("other")
        both = await core.embed(request_of(model="other")), await core.embed(request_of())
        assert list(core.loaded) == ["tiny", "other"]
        await core.deactivate("other")
        with pytest.raises(ServiceError, match="unknown model 'other'"):
            await core.embed(request_of(model="other"))
        with pytest.raises(ConfigurationError, match="'tiny' is the default"):
            await core.deactivate("tiny")
        with pytest.raises(ConfigurationError, match="no model 'other' is served"):
            await core.deactivate("other")
        return both

    other, tiny = run(scenario)
    assert (other.model, tiny.model) == ("other", "tiny")


def test_under_a_stream_of_requests_none_fails_and_each_is_of_one_revision(store):
    """Several pictures a request: had they gone to two models, the answer could name only one."""
    for version in range(2, 6):
        store[f"tiny/{version}"] = tiny_model(batch_size=version, encoder=Rotation(version / 10))
    pictures = [picture(), picture((0, 0, 0)), picture((255, 255, 255))]

    async def scenario(core):
        over, results = asyncio.Event(), []

        async def ask():
            while not over.is_set():
                results.append(await core.embed(request_of(*pictures, selection_samples=200)))

        clients = [asyncio.create_task(ask()) for _ in range(4)]
        for version in range(2, 6):
            now = (await core.activate(f"tiny/{version}")).revision
            await until(lambda now=now: any(result.revision == now for result in results))
        over.set()
        await asyncio.gather(*clients)
        return results

    results = run(scenario)
    assert {result.revision for result in results} == {revision_at(n) for n in range(2, 6)}
    turns = {revision_at(size): size / 10 for size in range(2, 6)} | {revision_at(4): None}
    for result in results:
        turn = turns[result.revision]
        if turn is None:  # the first model and version 4 share a revision here
            continue
        light = np.frombuffer(result.data[2].values, "<f4")
        assert np.arctan2(light[1], light[0]) == pytest.approx(turn, abs=0.05)


def test_a_change_goes_on_when_who_asked_for_it_leaves(store):
    slow = Held()
    store["tiny/2"] = tiny_model(encoder=slow, batch_size=2)

    async def scenario(core):
        slow.free.clear()
        asking = asyncio.create_task(core.activate("tiny/2"))
        await asyncio.to_thread(slow.asked.wait)
        asking.cancel()
        slow.free.set()
        await until(lambda: reloads(core, "changed") == 1)
        return (await core.embed(request_of())).revision

    assert run(scenario) == revision_at(2)


class SlowRecord:
    """An audit log on a slow disk."""

    fault = None

    def __init__(self):
        self.begun, self.done = asyncio.Event(), False

    async def record(self, entries):
        assert entries
        self.begun.set()
        await asyncio.sleep(0.3)
        self.done = True


def test_a_drain_waits_for_what_is_sampled_and_not_yet_on_record(store):
    async def scenario():
        audit = SlowRecord()
        core = Core(Settings(model="tiny", drain_ms=5000), signer=Signer(), audit=audit)
        await core.start()
        asking = asyncio.create_task(core.embed(request_of()))
        await audit.begun.wait()
        await core.drain()
        assert audit.done
        return await asking

    assert asyncio.run(scenario()).data[0].certificate is not None


def test_a_draining_service_changes_nothing_any_more(store):
    async def scenario(core):
        await core.drain()
        with pytest.raises(ServiceError) as caught:
            await core.activate("tiny")
        return caught.value.kind

    assert run(scenario) is Kind.UNAVAILABLE
