import time

import pytest

from service.config import Settings
from service.errors import Kind, ServiceError
from service.forecast import Forecast
from service.reservations import Reservations


class Books:
    """Reservations over a queue whose length and speed the test says."""

    def __init__(self, waiting=0, rate=100.0, **limits):
        self.waiting, self.rate = waiting, rate
        self.reservations = Reservations(
            Settings(**limits), lambda: self.waiting, Forecast(lambda: self.rate)
        )

    def request(self, samples=100, pictures=1, memory=1000, timeout_s=600.0, early=False):
        deadline = time.monotonic() + timeout_s
        return self.reservations.request(samples, pictures, memory, deadline, early)


def refusal(books, **fields):
    with pytest.raises(ServiceError) as caught, books.request(**fields):
        pass
    assert caught.value.kind is Kind.BUSY
    return caught.value.retry_after_s


def test_a_request_over_every_limit_is_admitted_when_nothing_else_is():
    books = Books(max_pending_samples=10, max_pending_pictures=1, max_pending_bytes=1024**2)
    with books.request(samples=1000, pictures=5, memory=2**30):
        assert books.reservations.pictures == 5
    assert books.reservations.pictures == 0


def test_retry_after_is_the_time_until_its_own_samples_fit():
    books = Books(max_pending_samples=5000, rate=100)
    with books.request(samples=4000):
        books.waiting = 4000
        assert refusal(books, samples=1500) == pytest.approx(5, rel=0.01)  # 500 too many
        assert refusal(books, samples=3000) == pytest.approx(20, rel=0.01)
        books.rate = 1000
        assert refusal(books, samples=3000) == pytest.approx(2, rel=0.1)


def test_retry_after_is_the_time_until_its_own_picture_fits():
    books = Books(max_pending_pictures=2, rate=100)
    with books.request(samples=1000), books.request(samples=200):
        assert refusal(books, samples=1) == pytest.approx(4.3, rel=0.01)


def test_nobody_is_asked_back_within_a_second():
    books = Books(max_pending_pictures=1, rate=10_000)
    with books.request(samples=200):
        assert refusal(books) == 1


def test_nobody_is_sent_away_for_longer_than_the_last_deadline():
    books = Books(max_pending_samples=100, rate=1)
    with books.request(samples=5000, timeout_s=7):
        books.waiting = 5000
        assert refusal(books, samples=5000) == pytest.approx(7, abs=0.5)


def test_the_pace_of_requests_that_ended_is_learned():
    books = Books(max_pending_pictures=1, rate=1000)
    for _ in range(5):
        with books.request(samples=100) as held:
            held.left = lambda: 0
            time.sleep(0.4)
            held.spent, held.answered = 100, True
    with books.request(samples=1000):
        assert refusal(books) == pytest.approx(4.3, rel=0.1)  # 1.3 at the devices' rate


def test_time_in_which_requests_ran_side_by_side_is_counted_once():
    books = Books(max_pending_pictures=2)
    for _ in range(3):
        with books.request() as one, books.request() as two:
            time.sleep(0.4)
            for held in (one, two):
                held.left = lambda: 0
                held.spent, held.answered = 100, True
    with books.request(samples=1000, pictures=2):
        assert refusal(books) == pytest.approx(2.3, rel=0.1)  # 500 a second


def test_time_beside_a_long_request_counts_though_a_short_one_came_late():
    books = Books(max_pending_pictures=3)
    with books.request() as long:
        long.left = lambda: 0
        for _ in range(3):
            time.sleep(0.4)  # at work for the long one
            with books.request() as short:
                short.left = lambda: 0
                short.spent = short.samples
        long.spent = 300
    with books.request(samples=1000, pictures=3):
        assert refusal(books) == pytest.approx(1.2 / 600 * 1000 + 0.3, rel=0.1)


def test_requests_that_never_reach_a_device_teach_nothing():
    books = Books(max_pending_pictures=1, rate=1000)
    for _ in range(3):
        with pytest.raises(ZeroDivisionError), books.request(samples=5000):
            time.sleep(0.2)
            raise ZeroDivisionError
    with books.request(samples=1000):
        assert refusal(books) == pytest.approx(1.3, rel=0.01)


def test_what_a_refused_request_asked_for_is_not_held():
    books = Books(max_pending_pictures=2)
    with books.request(pictures=2):
        refusal(books)
        assert books.reservations.pictures == 2
    with books.request(pictures=2):
        pass


def test_memory_is_limited_before_the_first_picture_is_admitted():
    books = Books(max_pending_bytes=1024**2).reservations
    with books.memory(2**21):  # alone: admitted though larger than the limit
        with pytest.raises(ServiceError) as caught, books.memory(1):
            pass
        assert caught.value.kind is Kind.BUSY
    with books.memory(2**19), books.memory(2**19):
        pass


def test_bytes_beside_those_of_samples_are_refused_with_the_time_too():
    books = Books(max_pending_bytes=1024**2, rate=100)
    with (
        books.request(samples=700, memory=2**20),
        pytest.raises(ServiceError) as caught,
        books.reservations.memory(1),
    ):
        pass
    assert caught.value.retry_after_s == pytest.approx(7.3, rel=0.01)


def test_a_refused_answer_is_told_when_a_place_should_be_free(monkeypatch):
    """Two in the making that take ten seconds each: one of them ends within five."""
    now = [0.0]
    monkeypatch.setattr("service.reservations.time.monotonic", lambda: now[0])
    reservations = Books(max_pending_answers=2).reservations
    with reservations.answer():
        now[0] += 10
    with reservations.answer(), reservations.answer():
        refused = pytest.raises(ServiceError, match="2 answers are in the making")
        with refused as caught, reservations.answer():
            pass
    assert caught.value.retry_after_s == pytest.approx(5)
    with reservations.answer():
        pass


def test_votes_that_come_too_late_are_refused_at_once():
    """Ten seconds of votes before; those of another that has five would fail anyway."""
    reservations = Books().reservations
    with reservations.votes("a", 100, 0.1, 5):  # alone it is tried, whatever it takes
        with reservations.votes("a", 50, 0.1, 15):
            pass
        with reservations.votes("b", 60, 0.1, 7):  # another language has a thread of its own
            pass
        refused = pytest.raises(ServiceError, match="100 votes come before these 60")
        with refused as caught, reservations.votes("a", 60, 0.1, 15):
            pass
    assert caught.value.kind is Kind.BUSY
    assert caught.value.retry_after_s == pytest.approx(1)
    with reservations.votes("a", 60, 0.1, 1):
        pass


def test_parts_of_one_party_do_not_stand_in_each_others_way():
    books = Books(max_pending_samples=1000, max_pending_pictures=1)
    party, deadline = object(), time.monotonic() + 60
    with books.reservations.request(900, 1, 10, deadline, False, party):
        with books.reservations.request(900, 1, 10, deadline, False, party):
            assert books.reservations.pictures == 2
            with pytest.raises(ServiceError), books.request():
                pass
        with (
            pytest.raises(ServiceError),
            books.reservations.request(900, 1, 10, deadline, False, object()),
        ):
            pass
