"""Classification through a core over the tiny closed-form model."""

import asyncio
import math
from array import array
from concurrent.futures import Future
from dataclasses import replace

import pytest

from service.config import Settings
from service.core import Core
from service.errors import Kind, ServiceError
from service.models import catalogue
from service.types import ClassifyRequest, EmbedRequest, Reference, Target
from tests.tiny import picture, tiny_model

OWN = 0.5 * 128 / 255  # the angle of F at this picture: c times its first pixel
SAMPLING = {"samples": 400, "selection_samples": 50, "confidence": 0.99}


def at(angle):
    return Reference(
        f"{angle:.2f}", array("d", [3 * math.cos(angle), 3 * math.sin(angle), 0.0, 0.0])
    )


def request_of(*references, images=1, **fields):
    embed = EmbedRequest(images=(picture(),) * images, **{**SAMPLING, **fields})
    return ClassifyRequest(embed, references=references or (at(OWN), at(OWN + 1.6)))


@pytest.fixture
def model(monkeypatch):
    model = tiny_model()
    loaded = {"tiny": model}
    monkeypatch.setattr(catalogue, "load_model", lambda *_: loaded["tiny"])
    return loaded


def run(scenario, **settings):
    async def main():
        core = Core(Settings(drain_ms=5000, **settings))
        await core.start()
        try:
            return await scenario(core)
        finally:
            await core.drain()
            assert core._reservations._bytes == 0

    return asyncio.run(main())


def test_the_label_is_certified_within_the_true_radius(model):
    """The bisector is 0.8 away and F turns by 0.5 a unit of the first pixel: the truth is 1.6."""
    result = run(lambda core: core.classify(request_of(images=3)))
    assert [item.label for item in result.data] == [f"{OWN:.2f}"] * 3
    assert all(0.3 < item.certified_radius < 1.6 for item in result.data)
    assert len({item.certificate.seed for item in result.data}) == 3
    assert result.timing.total_ms > 0


def test_all_samples_are_spent_unless_a_target_is_given(model):
    async def scenario(core):
        plain = await core.classify(request_of(samples=None))
        stopped = await core.classify(request_of(target=Target(0.05, 0.5)))
        return plain.data[0], stopped.data[0]

    plain, stopped = run(scenario, default_samples=300)
    assert plain.certificate.target is None
    assert plain.certificate.estimation_samples == 300
    assert stopped.certificate.target == Target(0.05, 0.5)
    assert stopped.certified_radius <= plain.certified_radius + 0.2


def test_a_radius_at_several_checkpoints_pays_for_all_of_them(model):
    """The same noise: with a target the label's alpha is shared among the checkpoints."""
    seed = "00" * 16

    async def scenario(core):
        return [
            (await core.classify(request_of(seed=seed, target=target))).data[0]
            for target in (None, Target(4.0, 0.999))
        ]

    alone, shared = run(scenario, allow_client_seed=True)
    if shared.certificate.estimation_samples == 400:
        assert shared.certified_radius < alone.certified_radius


def test_a_full_memory_refuses_and_later_accepts(model):
    async def scenario(core):
        first = asyncio.create_task(core.classify(request_of(samples=20_000)))
        while not core._reservations.pictures:
            await asyncio.sleep(0.005)
        with pytest.raises(ServiceError) as caught:
            await core.classify(request_of(*(at(i / 100) for i in range(200))))
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)
        return caught.value, await core.classify(request_of())

    error, result = run(scenario, max_pending_bytes=700_000)
    assert error.kind is Kind.BUSY
    assert error.retry_after_s
    assert result.data[0].label


class _Endless:
    """A text tower that is never done."""

    def encode_later(self, texts, params):
        return Future()


def test_the_deadline_covers_the_text_tower(model):
    model["tiny"] = replace(model["tiny"], text=_Endless())
    request = ClassifyRequest(
        EmbedRequest(images=(picture(),), timeout_s=0.2, **SAMPLING), labels=("cat", "dog")
    )
    with pytest.raises(ServiceError, match="timeout_ms = 200") as caught:
        run(lambda core: core.classify(request))
    assert caught.value.kind is Kind.DEADLINE


@pytest.mark.parametrize("value", [math.nan, math.inf, 0.0])
def test_a_reference_without_a_direction_is_refused(model, value):
    bad = Reference("bad", array("d", [value] * 4))
    with pytest.raises(ServiceError) as caught:
        run(lambda core: core.classify(request_of(at(0), bad)))
    assert caught.value.param == "references[1].embedding"


@pytest.mark.parametrize("scale", [1e-300, 1e300])
def test_the_scale_of_a_reference_does_not_matter(model, scale):
    wide = Reference("wide", array("d", [0.0, scale, 0.0, scale]))
    result = run(lambda core: core.classify(request_of(at(OWN), wide)))
    assert result.data[0].candidates[1].score == pytest.approx(math.sin(OWN) / 2**0.5, abs=0.05)
