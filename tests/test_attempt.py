import numpy as np
import pytest

from service.attempt import Attempt
from service.certificate.evidence import Mark
from service.types import Stage, Target
from tests.tiny import plan, tiny_model


def features(count, first=0):
    angles = 0.01 * np.arange(first, first + count)
    zero = np.zeros(count)
    return np.stack([np.cos(angles), np.sin(angles), zero, zero], 1).astype(np.float32)


def attempt_of(make_watch=None, **fields):
    return Attempt(plan(**{"selection": 4, "estimation": 6, **fields}), tiny_model(), make_watch)


def add(attempt, stage, first, count, found=None):
    rows, norms = features(count, first), np.arange(first, first + count, dtype=np.float32)
    return attempt.add(stage, first, (rows, norms), (found if found is not None else []).append)


def test_samples_are_handed_out_once_in_the_order_of_the_stages():
    attempt = attempt_of()
    parts = [part for _ in range(6) for part in attempt.take(2)]
    assert parts == [
        (Stage.CLEAN, 0, 1),
        (Stage.SELECT, 0, 1),
        (Stage.SELECT, 1, 2),
        (Stage.SELECT, 3, 1),
        (Stage.ESTIMATE, 0, 1),
        (Stage.ESTIMATE, 1, 2),
        (Stage.ESTIMATE, 3, 2),
        (Stage.ESTIMATE, 5, 1),
    ]
    assert attempt.outstanding == attempt.remaining == 0
    assert attempt.take(5) == []


def test_features_that_come_early_wait_for_those_before_them():
    late, found = attempt_of(), []
    assert add(late, Stage.ESTIMATE, 2, 4, found) == 0
    assert add(late, Stage.SELECT, 0, 4, found) == 0
    assert late.tallied == 0
    assert add(late, Stage.CLEAN, 0, 1, found) == 5
    assert found == []
    assert add(late, Stage.ESTIMATE, 0, 2, found) == 6
    in_order = attempt_of()
    for stage, count in ((Stage.CLEAN, 1), (Stage.SELECT, 4), (Stage.ESTIMATE, 6)):
        add(in_order, stage, 0, count)
    assert [type(what) for what in found] == [Mark]
    assert late.tallied == in_order.tallied == 11
    np.testing.assert_array_equal(late.tally.embedding, in_order.tally.embedding)
    np.testing.assert_array_equal(late.tally.projections, in_order.tally.projections)


def test_whoever_asks_whether_it_is_selected_makes_no_tally_beside_that_of_the_rows():
    attempt = attempt_of(certify=False)
    attempt.take(4)
    assert not attempt.selected
    assert attempt._tally is None
    add(attempt, Stage.SELECT, 0, 4)
    assert attempt.selected
    attempt.release()
    assert not attempt.selected


def test_rows_that_wait_keep_no_batch_of_others():
    attempt = attempt_of(certify=False)
    attempt.take(4)
    batch = features(100)
    attempt.add(Stage.SELECT, 2, (batch[50:52], np.ones(100)[50:52]), [].append)
    assert not any(np.shares_memory(rows, batch) for rows, _ in attempt._ahead.values())


def test_the_norm_is_the_mean_of_the_selected_samples_whatever_their_order():
    attempt = attempt_of()
    add(attempt, Stage.SELECT, 2, 2)
    add(attempt, Stage.ESTIMATE, 0, 6)
    add(attempt, Stage.CLEAN, 0, 1)
    add(attempt, Stage.SELECT, 0, 2)
    assert attempt.norm == 1.5


def test_a_watch_has_seen_every_feature_before_the_look_that_may_end_the_job():
    events = []

    class Watch:
        def add(self, stage, rows, embedding):
            events.append(len(rows))
            assert (embedding is not None) == (stage is Stage.ESTIMATE)

    attempt = attempt_of(Watch)
    for stage, count in ((Stage.CLEAN, 1), (Stage.SELECT, 4), (Stage.ESTIMATE, 6)):
        attempt.add(
            stage,
            0,
            (features(count), np.ones(count, np.float32)),
            lambda _: events.append("found"),
        )
    assert events == [1, 4, 6, "found"]


def test_sampling_runs_no_further_than_one_checkpoint_ahead_of_the_looks():
    attempt = attempt_of(estimation=1000, target=Target(0.1, 0.9))
    _, second, third = attempt._plan.checkpoints[:3]
    attempt.take(10_000)
    assert attempt.remaining == 0
    assert 1005 - attempt.outstanding == 5 + second
    attempt.continue_past_look()
    assert attempt.remaining == third - second


def test_what_waits_for_its_turn_is_bounded(monkeypatch):
    monkeypatch.setattr("service.attempt._MOST_WAITING_BYTES", 100 * 16)  # a hundred features
    attempt = attempt_of(estimation=1000)
    attempt.take(10_000)
    assert 1005 - attempt.outstanding == 100
    add(attempt, Stage.CLEAN, 0, 1)
    assert attempt.remaining == 1


def test_an_attempt_that_has_ended_takes_no_more():
    attempt = attempt_of()
    add(attempt, Stage.CLEAN, 0, 1)
    attempt.release()
    assert add(attempt, Stage.SELECT, 0, 4) == 0
    assert not attempt.selected
    with pytest.raises(RuntimeError, match="ended"):
        attempt.tally  # noqa: B018


def test_a_look_of_the_past_is_told_to_nobody():
    attempt, told = attempt_of(), []
    attempt.tell(told.append, "now")
    attempt.release()
    attempt.tell(told.append, "past")
    assert told == ["now"]


def test_who_is_told_of_features_may_leave_at_once():
    attempt = attempt_of()

    class Leaving:
        def add(self, stage, rows, embedding):
            attempt.release()

    attempt._make_watch = Leaving
    assert add(attempt, Stage.CLEAN, 0, 1) == 1
    assert add(attempt, Stage.SELECT, 0, 4) == 0
