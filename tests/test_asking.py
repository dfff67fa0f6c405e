"""Answers of a started core over a tiny language model, where its device fails meanwhile."""

import asyncio
import threading

import pytest

from service.config import Settings
from service.conversations import conversation
from service.core import Core
from service.errors import Kind, ServiceError
from service.types import AnswerRequest, EmbedRequest
from tests.models.answerer import tiny_mllms
from tests.tiny import picture

CLOSED = {"choices": ("yes", "no"), "votes": 20}


@pytest.mark.parametrize("fields", [{"max_tokens": 2}, CLOSED], ids=["open", "closed"])
def test_a_batch_that_is_halved_after_the_language_was_shown_its_means_ends_the_answer(
    tmp_path, monkeypatch, fields
):
    """What is certified afterwards is another embedding than the one that was spoken of."""
    folder = tiny_mllms.write("llava", tmp_path / "tiny-llava")
    request = AnswerRequest(
        embed=EmbedRequest(
            images=(picture(),), samples=3000, selection_samples=4, sigma=0.25, target=None
        ),
        messages=conversation("what is this ?", [], 1),
        **fields,
    )

    async def main():
        core = Core(Settings(model=str(folder), device="cpu", drain_ms=5000))
        await core.start()
        (model,) = core.loaded.values()
        spoken = watch(model, monkeypatch)
        answering = asyncio.ensure_future(core.answer(request))
        try:
            while not spoken.is_set():
                await asyncio.sleep(0.001)
            fail_above(model, model.batch_size // 2)
            return await asyncio.wait_for(answering, 60)
        finally:
            await core.drain()

    with pytest.raises(ServiceError, match="ask again") as caught:
        asyncio.run(main())
    assert caught.value.kind is Kind.UNAVAILABLE


def watch(model, monkeypatch):
    """Set once the language has been shown the means."""
    shown, token_map = threading.Event(), type(model.answerer).token_map

    def seen(*arguments):
        shown.set()
        return token_map(*arguments)

    monkeypatch.setattr(type(model.answerer), "token_map", seen)
    return shown


def fail_above(model, fits):
    """Larger batches do not fit from now on, and smaller ones are visibly another function."""
    encoder = model.pipeline.encoder
    pooled = encoder.pooled

    def halved(pixels):
        if len(pixels) > fits:
            raise MemoryError("out of memory")
        return pooled(pixels) + 0.05

    encoder.pooled = halved
