import numpy as np
import pytest

from service.evaluation.quiz import chosen, plain, questions, share
from service.pictures.meanings import Meaning


def test_questions_come_in_pairs_of_yes_and_no():
    shown = [Meaning("animal", "cat"), Meaning("food"), Meaning("tool", "saw")]
    asked = list(questions(shown, np.random.default_rng(0)))
    closed = [q.answer for q in asked if q.about == "yes/no"]
    assert closed.count("yes") == closed.count("no") == 3
    assert [q.answer for q in asked if q.about == "name"] == ["cat", "saw"]
    assert all(q.text != "Is this food?" for q in asked if q.answer == "no" and q.picture == 1)


def test_kinds_and_names_take_turns(tmp_path):
    known = {tmp_path / f"{i}.png": Meaning("flag", f"n{i % 3}") for i in range(20)}
    known |= {tmp_path / f"cat{i}.png": Meaning("animal", "cat") for i in range(5)}
    found = list(chosen(known, 6, np.random.default_rng(0)).values())
    assert [one.kind for one in found] == ["animal", "flag"] * 3
    assert len({one.name for one in found if one.kind == "flag"}) == 3


@pytest.mark.parametrize(
    ("said", "expected"),
    [("A cat.", "cat"), ("  An  Animal!", "animal"), ("the the", ""), ("Yes", "yes")],
)
def test_articles_case_and_punctuation_do_not_count(said, expected):
    assert plain(said) == expected


def test_the_interval_is_that_of_clopper_and_pearson():
    part, low, high, n = share([True] * 8 + [False] * 2)
    assert (part, n) == (0.8, 10)
    assert (low, high) == pytest.approx((0.4439, 0.9748), abs=1e-4)
    assert share([False] * 4)[1] == 0.0
    assert share([True] * 4)[2] == 1.0
