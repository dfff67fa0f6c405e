import time

import pytest

from service.config import Settings
from service.errors import Kind, ServiceError
from service.reservations import Reservations


class Books:
    """Reservations over a queue whose length and speed the test says."""

    def __init__(self, waiting=0, rate=100.0, **limits):
        self.waiting, self.rate = waiting, rate
        self.reservations = Reservations(
            Settings(**limits), lambda: self.waiting, lambda: self.rate
        )

    def request(self, samples=100, pictures=1, memory=1000, timeout_s=600.0):
        return self.reservations.request(samples, pictures, memory, time.monotonic() + timeout_s)


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
        assert refusal(books, samples=3000) == pytest.approx(2, rel=0.01)


def test_of_several_limits_the_tightest_decides_when_to_come_back():
    books = Books(max_pending_pictures=10, max_pending_bytes=1024**2, rate=100)
    books.reservations._answered.observe(50, 100.0)  # a picture in two seconds
    with books.request(pictures=10, memory=2**19):
        assert refusal(books, pictures=1) == pytest.approx(2, rel=0.01)
        assert refusal(books, pictures=5) == pytest.approx(10, rel=0.01)
        # Bytes: all of the half that is held must go.
        assert refusal(books, pictures=1, memory=2**20) == pytest.approx(20, rel=0.01)


def test_the_rate_of_answers_is_that_of_the_requests_that_ended():
    books = Books(max_pending_pictures=4)
    for _ in range(5):
        with books.request(pictures=2):
            time.sleep(0.2)
    with books.request(pictures=4):
        # ten pictures a second: two would be gone in 0.2 s, but nobody is asked back within one
        assert refusal(books, pictures=2) == 1
        assert books.reservations._answered.computed == pytest.approx(10, rel=0.3)


def test_nobody_is_sent_away_for_longer_than_the_last_deadline():
    books = Books(max_pending_samples=100, rate=1)
    with books.request(samples=5000, timeout_s=7):
        books.waiting = 5000
        assert refusal(books, samples=5000) == pytest.approx(7, abs=0.5)


def test_without_a_measured_rate_the_deadline_is_the_estimate():
    books = Books(max_pending_samples=100, rate=0)
    with books.request(samples=90, timeout_s=12):
        books.waiting = 90
        assert refusal(books, samples=20) == pytest.approx(12, abs=0.5)


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
