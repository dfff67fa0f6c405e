import pytest

from service.rate import Rate


def test_nothing_is_known_before_the_first_observation():
    rate = Rate()
    assert rate.computed == 0.0


def test_a_steady_rate_is_found():
    rate = Rate()
    for _ in range(1000):
        rate.observe(8, 0.02)
    assert rate.computed == pytest.approx(400)


def test_the_last_half_minute_of_work_counts_most():
    rate = Rate(memory_s=30)
    for _ in range(100):
        rate.observe(100, 1.0)
    for _ in range(60):
        rate.observe(10, 1.0)
    # 1 - e^-2 of the weight is on the last minute
    assert rate.computed == pytest.approx(10 + 90 * 0.135, rel=0.1)
