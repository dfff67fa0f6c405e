"""A moving window against what it promises, at every moment."""

from hypothesis import given
from hypothesis import strategies as st

from service.access.window import Window

LIMIT = 100


@given(
    st.lists(
        st.tuples(st.integers(1, LIMIT), st.integers(0, 40), st.integers(0, LIMIT)), max_size=40
    )
)
def test_no_minute_ever_holds_more_than_the_limit_and_a_wait_is_long_enough(steps):
    window, now, spent = Window(), 0, []
    for amount, pause, unused in steps:
        now += pause
        if wait := window.wait_s(amount, LIMIT, now):
            assert wait <= 60
            # Not a moment earlier would do: what is older than the wait says must go first.
            kept = sum(a for at, a in spent if at > now + wait - 60)
            before = sum(a for at, a in spent if at >= now + wait - 60)
            assert kept + amount <= LIMIT < before + amount
            continue
        entry = window.spend(amount, now)
        window.give_back(entry, unused)
        spent.append((now, max(0, amount - unused)))
        assert sum(a for at, a in spent if at > now - 60) <= LIMIT


def test_what_is_given_back_may_be_spent_and_what_is_old_is_not_given_back_twice():
    window = Window()
    early = window.spend(100, 0)
    assert window.wait_s(1, LIMIT, 10) == 50
    window.give_back(early, 40)
    assert window.wait_s(40, LIMIT, 10) == 0
    assert window.wait_s(41, LIMIT, 10) == 50
    assert window.wait_s(100, LIMIT, 60) == 0
    window.give_back(early, 60)
    assert window.wait_s(100, LIMIT, 60) == 0
    window.spend(1, 60)
    assert window.wait_s(100, LIMIT, 61) == 59
