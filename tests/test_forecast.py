import pytest

from service.forecast import Amount, Forecast, Held

ANSWER_S = 0.3  # from the last sample to the answer
NONE_FREE = Amount(0, 0, 0)


def held(samples, pictures=1, memory=1000, deadline=600.0, early=False, left=None):
    one = Held(samples, pictures, memory, deadline, early)
    if left is not None:
        one.left = lambda: left
    return one


def room_s(forecast, *requests, free=NONE_FREE, samples=0.0, pictures=0, memory=0, now=0.0):
    return forecast.room_s(requests, free, Amount(samples, pictures, memory), now)


@pytest.fixture
def forecast():
    """At a hundred samples a second."""
    return Forecast(lambda: 100.0)


def test_samples_leave_the_queue_as_they_are_drawn(forecast):
    assert room_s(forecast, held(4000), samples=500) == pytest.approx(5, rel=0.01)
    assert room_s(forecast, held(4000), samples=2000) == pytest.approx(20, rel=0.01)
    free = Amount(1000, 0, 0)
    assert room_s(forecast, held(4000), free=free, samples=2000) == pytest.approx(10, rel=0.01)


def test_samples_that_were_drawn_before_are_not_waited_for(forecast):
    assert room_s(forecast, held(4000, left=1000), samples=1000) == pytest.approx(10, rel=0.05)


def test_pictures_and_bytes_leave_when_their_request_ends(forecast):
    one = held(2000, pictures=10, memory=2**19)
    assert room_s(forecast, one, pictures=1) == pytest.approx(20 + ANSWER_S)
    assert room_s(forecast, one, memory=1) == pytest.approx(20 + ANSWER_S)


def test_requests_share_the_rate_so_equal_ones_end_together_and_short_ones_first(forecast):
    alike = held(1000), held(1000)
    assert room_s(forecast, *alike, pictures=1) == pytest.approx(20 + ANSWER_S)
    unlike = held(1000), held(200)
    assert room_s(forecast, *unlike, pictures=1) == pytest.approx(4 + ANSWER_S)
    assert room_s(forecast, *unlike, pictures=2) == pytest.approx(12 + ANSWER_S)


def test_of_several_limits_the_last_to_have_room_decides(forecast):
    unlike = held(1000), held(200, memory=5)
    both = room_s(forecast, *unlike, pictures=1, samples=1000)
    assert both == pytest.approx(10, rel=0.05)  # the picture alone: 4.3 s


def test_a_request_that_may_stop_early_holds_its_samples_until_it_is_expected_to(forecast):
    for _ in range(100):
        ended = held(1100, early=True)
        ended.spent, ended.answered = 240, True  # the next is expected to, and a quarter more
        forecast.learn(ended, 2.4)
    fresh = held(1100, early=True)
    assert room_s(forecast, fresh, samples=1000) == pytest.approx(3 + ANSWER_S, rel=0.01)
    begun = held(1100, early=True, left=1000)
    assert room_s(forecast, begun, samples=1000) == pytest.approx(2 + ANSWER_S, rel=0.01)
    late = held(1100, early=True, left=500)  # there is always something left
    assert ANSWER_S < room_s(forecast, late, samples=500) < 1
    short = held(50, early=True)  # never more than all
    assert room_s(forecast, short, samples=50) == pytest.approx(0.5 + ANSWER_S)


def ended(spent, answered=True, early=False):
    one = held(1000, early=early)
    one.spent, one.answered = spent, answered
    return one


def test_the_rate_at_which_requests_ended_is_trusted_more_than_that_of_the_devices(forecast):
    assert room_s(forecast, held(1000), pictures=1) == pytest.approx(10 + ANSWER_S)
    for _ in range(50):
        forecast.learn(ended(500), seconds=10.0)
    assert room_s(forecast, held(1000), pictures=1) == pytest.approx(20 + ANSWER_S)


def test_what_was_computed_for_requests_that_failed_counts_as_work_but_not_as_typical(forecast):
    for _ in range(50):
        forecast.learn(ended(50, answered=False, early=True), seconds=1.0)
    assert room_s(forecast, held(1000), pictures=1) == pytest.approx(20 + ANSWER_S)
    # Still 200 and a quarter more, at 50 a second.
    assert room_s(forecast, held(1000, early=True), pictures=1) == pytest.approx(5 + ANSWER_S)


def test_nothing_is_held_past_its_deadline(forecast):
    slow = held(10_000, deadline=107.0)
    assert room_s(forecast, slow, samples=10_000, now=100.0) == pytest.approx(7)
    assert room_s(Forecast(lambda: 0.0), slow, samples=1, now=100.0) == pytest.approx(7)


def test_what_will_never_fit_waits_for_the_last_end(forecast):
    assert room_s(forecast, held(100), memory=2**40) == pytest.approx(1 + ANSWER_S)
    assert room_s(forecast, memory=2**40) == 0
