"""The decoding thread, with the real decoder of a tiny language model."""

import threading
import time
from dataclasses import replace

import pytest
import torch

from service.errors import Kind, ServiceError
from service.models.answerer.answerer import load_answerer
from service.polling import Poll
from service.speaking import Saying, Speaker, _sure
from service.types import Generation, Message
from tests.models.answerer import tiny_mllms


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    return load_answerer(
        tiny_mllms.write("llava", tmp_path_factory.mktemp("m") / "llava"), (32, 32)
    )


@pytest.fixture
def speaker(loaded):
    made = Speaker(loaded[1], most=2)
    made.start()
    yield made
    made.stop()


def saying(loaded, seed=0, tokens=8, **changes):
    eyes, answerer = loaded
    prompt = answerer.prompter.write((Message("user", (None, "what is this ?")),), "prompt")
    pixels = torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(seed))
    maps = (eyes.tokens(pixels)[0],)
    return Saying(prompt, Generation(tokens), maps, **changes)


def test_pieces_make_the_whole(loaded, speaker):
    pieces = []
    one = saying(loaded, told=pieces.append)
    speaker.say(one)
    whole = one.future.result(20).text
    assert "".join(pieces) == whole


def test_more_answers_than_are_decoded_together_all_come(loaded, speaker):
    many = [saying(loaded, seed, tokens=3 + seed) for seed in range(7)]
    for one in many:
        speaker.say(one)
    alone = [saying(loaded, seed, tokens=3 + seed) for seed in range(7)]
    for one in alone:
        speaker.say(one)
        one.future.result(20)
    assert [one.future.result(20) for one in many] == [one.future.result() for one in alone]


def test_who_left_is_dropped_and_the_next_goes_on(loaded, speaker):
    begun = threading.Event()
    gone = [saying(loaded, seed, tokens=90, told=lambda _: begun.set()) for seed in range(2)]
    for one in gone:
        speaker.say(one)
    begun.wait(10)
    for one in gone:
        one.future.cancel()
    began = time.monotonic()
    last = saying(loaded, 3, tokens=2)
    speaker.say(last)
    assert last.future.result(20).tokens <= 2
    assert time.monotonic() - began < 10


def test_a_prompt_that_fails_fails_alone(loaded, speaker):
    bad, good = saying(loaded), saying(loaded)
    bad.maps = (torch.zeros(3, 5),)
    speaker.say(bad)
    speaker.say(good)
    with pytest.raises(ServiceError) as failed:
        bad.future.result(20)
    assert failed.value.kind is Kind.INTERNAL
    assert good.future.result(20).tokens


def test_at_the_end_nobody_is_left_waiting(loaded):
    speaker = Speaker(loaded[1], most=1)
    speaker.start()
    waiting = [saying(loaded, seed, tokens=100) for seed in range(3)]
    for one in waiting:
        speaker.say(one)
    speaker.stop()
    for one in waiting:
        if (error := one.future.exception(5)) is not None:
            assert error.kind is Kind.UNAVAILABLE
    assert isinstance(waiting[-1].future.exception(), ServiceError)
    with pytest.raises(ServiceError, match="shutting down"):
        speaker.say(saying(loaded))


def poll(loaded, count, choices=((8, 3), (9, 3), (11, 12, 3))):
    """About ten pictures in turn."""
    pictures = [saying(loaded, seed) for seed in range(min(count, 10))]
    shown = [pictures[number % 10].maps for number in range(count)]
    return Poll(pictures[0].prompt, choices, shown)


def test_who_is_being_read_when_it_ends_is_told_though_the_reading_is_not_waited_for(
    loaded, monkeypatch
):
    made = Speaker(loaded[1], most=2)
    monkeypatch.setattr("service.speaking._LONGEST_END_S", 0.1)
    decoder = loaded[1].decoder()
    reading, go = threading.Event(), threading.Event()

    def begin(*_):
        reading.set()
        assert go.wait(20)
        raise RuntimeError("read for nobody")

    monkeypatch.setattr(decoder, "begin", begin)
    monkeypatch.setattr(type(loaded[1]), "decoder", lambda _: decoder)
    made.start()
    read, behind = saying(loaded), saying(loaded)
    made.say(read)
    assert reading.wait(20)
    made.say(behind)
    made.stop()
    for one in (read, behind):
        assert one.future.exception(0).kind is Kind.UNAVAILABLE
    go.set()
    made._thread.join(20)


def test_a_poll_finds_the_likeliest_choice_for_each_map_alone(loaded, speaker):
    """However many there are, and whatever shares their batch."""
    whole = poll(loaded, 10)
    speaker.ask(whole)
    decoder = loaded[1].decoder()
    alone = [
        int(decoder.likelihoods(whole.prompt, [maps], whole.choices).argmax())
        for maps in whole.shown
    ]
    assert whole.future.result(20) == alone
    assert len(set(alone)) > 1


def test_polls_and_answers_go_on_side_by_side(loaded, speaker):
    """Neither waits for the end of the other."""
    asked, progress = poll(loaded, 1000), []
    speaker.ask(asked)
    many = [
        saying(loaded, seed, tokens=90, told=lambda _: progress.append(len(asked.found)))
        for seed in range(8)
    ]
    for one in many:
        speaker.say(one)
    assert sum(one.future.result(20).tokens for one in many) > 8
    assert not asked.complete
    assert len(set(progress)) > 1
    assert len(asked.future.result(60)) == 1000


def test_polls_are_taken_one_after_the_other_but_an_answer_first(loaded, speaker):
    """In turns, all of them would end late."""
    first, second, answer = poll(loaded, 200), poll(loaded, 200), poll(loaded, 1)
    ended = []
    for name, one in (("first", first), ("second", second), ("answer", answer)):
        one.future.add_done_callback(lambda _, name=name: ended.append(name))
    speaker.ask(first)
    speaker.ask(second)
    assert speaker.pending_votes > 200
    speaker.ask(answer)
    for one in (first, second, answer):
        one.future.result(60)
    assert ended == ["answer", "first", "second"]
    assert speaker.pending_votes == 0
    assert speaker.seconds_per_vote > 0


def test_a_poll_that_is_left_holds_nothing_while_others_are_taken(loaded, speaker):
    """Its draws may be hundreds of megabytes, which nobody accounts for any more."""
    first, left = poll(loaded, 2000), poll(loaded, 50)
    speaker.ask(first)
    speaker.ask(left)
    left.future.cancel()
    until = time.monotonic() + 10
    while left in speaker._polls and time.monotonic() < until:
        time.sleep(0.001)
    assert left not in speaker._polls
    assert not first.complete
    first.future.cancel()


def test_long_prompts_are_read_in_smaller_batches(loaded):
    one = poll(loaded, 10)
    assert one.rows == 4
    one.prompt = replace(one.prompt, ids=one.prompt.ids.repeat(1, 8))
    assert one.rows == 512 // one.prompt.length < 4
    one.prompt = replace(one.prompt, ids=one.prompt.ids.repeat(1, 20))
    assert one.rows == 1
    assert poll(loaded, 1).rows == 1


def test_a_poll_that_fails_fails_alone_and_one_that_is_left_is_dropped(loaded, speaker):
    bad, gone, good = poll(loaded, 1), poll(loaded, 1000), poll(loaded, 1)
    bad.shown = [(torch.zeros(3, 5),)]
    for one in (bad, gone, good):
        speaker.ask(one)
    gone.future.cancel()
    with pytest.raises(ServiceError) as failed:
        bad.future.result(20)
    assert failed.value.kind is Kind.INTERNAL
    assert len(good.future.result(20)) == 1
    assert len(gone.found) < 1000


def test_at_the_end_no_poll_is_left_waiting(loaded):
    speaker = Speaker(loaded[1], most=1)
    speaker.start()
    waiting = [poll(loaded, 1000) for _ in range(2)]
    for one in waiting:
        speaker.ask(one)
    speaker.stop()
    for one in waiting:
        assert one.future.exception(5).kind is Kind.UNAVAILABLE
    with pytest.raises(ServiceError, match="shutting down"):
        speaker.ask(poll(loaded, 1))


@pytest.mark.parametrize(
    ("text", "stops", "sure"),
    [
        ("a cat", (), "a cat"),
        ("a cat�", (), "a cat"),
        ("a cat. EN", ("END",), "a cat. "),
        ("a cat. EX", ("END",), "a cat. EX"),
        ("ab", ("bcd", "abx"), ""),
    ],
)
def test_what_may_still_change_is_not_told(text, stops, sure):
    assert _sure(text, stops) == sure
