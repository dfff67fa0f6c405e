"""What votes prove, from real features of a tiny model; statistics are in tests/certificate."""

from dataclasses import replace

import numpy as np
import pytest

from service.certificate.votes import count_votes
from service.types import NoiseLevel, Space, Stage
from service.voting import Ballot, Draws, Views, memory, vote
from tests.certificate.test_sequential import plan

SPACE = Space(8, 8)
BALLOT = Ballot(("yes", "no"), ((1, 2), (3, 2)), 100, 0.001)


class Answerer:
    def token_map(self, embedding, norm):
        return embedding * norm


class Result:
    def __init__(self, features, norms):
        self.watch, self.norms = Draws(), norms
        self.watch.add(Stage.CLEAN, np.zeros((1, 2), np.float32), None)
        for feature in features:
            self.watch.add(Stage.SELECT, feature[None], None)


def test_every_draw_is_shown_alone_at_its_own_norm_beside_the_other_pictures():
    one = np.arange(6, dtype=np.float32).reshape(3, 2)
    views = Views(Answerer(), [Result(one, (1.0, 2.0, 3.0)), Result(-one, (3.0, 2.0, 1.0))])
    assert len(views) == 3
    first, second = views[1]
    assert first.tolist() == [4.0, 6.0]
    assert second.tolist() == [-4.0, -6.0]
    assert len(views[0:2]) == 2


def test_the_finding_is_that_of_the_votes_for_the_answer_and_no_other():
    found = [0] * 30 + [1] * 70
    for answer, agreeing in ((0, 30), (1, 70)):
        told = vote(BALLOT, answer, found, replace(plan(), noise=NoiseLevel(0.5)), 1, SPACE, False)
        expected = count_votes(agreeing, 100, 0.5, 0.001)
        assert (told.agreeing, told.lower) == (agreeing, expected.lower)
        assert told.certified_radius == expected.radius
        assert told.abstained is (expected.radius == 0)
        assert [one.votes for one in told.choices] == [30, 70]


@pytest.mark.parametrize(
    ("votes", "pictures", "seeded", "parts"),
    [
        (100, 1, False, ["every 8-bit 8x8 RGB picture within", "'yes'"]),
        (100, 2, True, ["of these 2, taken together", "The client chose"]),
        (50, 1, False, ["nothing is promised of the answer"]),
    ],
)
def test_the_statement_says_what_is_promised(votes, pictures, seeded, parts):
    found = [0] * votes + [1] * (100 - votes)
    told = vote(BALLOT, 0, found, plan(), pictures, SPACE, seeded).statement
    for part in parts:
        assert part in told


def test_the_radius_in_the_statement_is_rounded_down():
    told = vote(BALLOT, 0, [0] * 100, replace(plan(), noise=NoiseLevel(0.25)), 1, SPACE, False)
    assert told.certified_radius == pytest.approx(0.37511, abs=1e-5)
    assert "within l2 distance 0.3751 of" in told.statement


def test_draws_keep_no_batch_of_others():
    batch, draws = np.ones((64, 8), np.float32), Draws()
    draws.add(Stage.SELECT, batch[10:12], None)
    draws.add(Stage.SELECT, batch[40:41], None)
    held = {id(row.base): row.base.nbytes for row in draws.features}
    assert sum(held.values()) == 3 * 8 * 4


def test_the_memory_of_the_draws_is_that_of_their_features():
    assert memory(BALLOT, 2, 1000) >= 4 * 100 * 2 * 1000
