"""The label's certificate on encoders whose truth is known, and its invariances."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom

from service.certificate.labels import Directions, LabelTally, same_direction
from service.types import Stage
from tests.certificate.closed_form import rotation

FALSE_ALARM = 1e-6
TRIALS = 200


def directions_at(*angles):
    vectors = np.array([[math.cos(a), math.sin(a)] for a in angles])
    return Directions(tuple(f"at {a:g}" for a in angles), vectors)


def mean_of(features):
    total = features.astype(np.float64).sum(0)
    return (total / np.linalg.norm(total)).astype(np.float32)


def tally_of(directions, selection, estimation, chunk=64):
    tally = LabelTally(directions)
    tally.add(Stage.CLEAN, selection[:1], None)
    for first in range(0, len(selection), chunk):
        tally.add(Stage.SELECT, selection[first : first + chunk], None)
    embedding = mean_of(selection)
    for first in range(0, len(estimation), chunk):
        tally.add(Stage.ESTIMATE, estimation[first : first + chunk], embedding)
    return tally


def findings_of(directions, selection, estimation, alpha, chunk=64):
    return tally_of(directions, selection, estimation, chunk).findings(len(estimation), 1.0, alpha)


@pytest.mark.parametrize("alpha", [0.01, 0.3])
@pytest.mark.parametrize("c", [0.1, 0.4])
def test_the_radius_never_passes_the_true_change_of_label(c, alpha):
    """F(x') points at angle c·x'₁ and changes its label at the bisector -0.6.

    False-alarm rate: 1e-6 by a binomial test.
    """
    labels, truth = directions_at(0.3, -1.5, 2.1), 0.6 / c
    rng = np.random.default_rng([7, int(10 * c), int(100 * alpha)])
    wrong, certified = 0, []
    for _ in range(TRIALS):
        found = findings_of(labels, rotation(rng, 20, c, 1), rotation(rng, 300, c, 1), alpha)
        if not found.abstained:
            certified.append(found.radius)
            wrong += found.candidates[0][0] != "at 0.3" or found.radius > truth
    assert wrong <= binom.isf(FALSE_ALARM, TRIALS, alpha)
    assert max(certified, default=0) > 0.1 * truth


@pytest.mark.parametrize("alpha", [0.05, 0.3])
def test_an_exact_tie_is_settled_no_more_often_than_alpha(alpha):
    """Half of the features are either label: every answer but abstention would be false.

    False-alarm rate: 1e-6 by a binomial test. At alpha = 0.3 the level is used, not only kept.
    """
    labels = Directions(("one", "two"), np.eye(2))
    rng = np.random.default_rng([8, int(100 * alpha)])
    trials, settled = 600, 0
    for _ in range(trials):
        features = np.eye(2, dtype=np.float32)[(rng.random(120) < 0.5).astype(int)]
        settled += not findings_of(labels, features[:20], features[20:], alpha).abstained
    assert settled <= binom.isf(FALSE_ALARM, trials, alpha)
    if alpha == 0.3:
        assert settled > 0


def test_an_ambiguous_picture_abstains_with_radius_zero():
    rng = np.random.default_rng(1)
    labels = directions_at(0.001, -0.001, 1.0)
    found = findings_of(labels, rotation(rng, 50, 0.5, 1), rotation(rng, 500, 0.5, 1), 0.001)
    assert found.abstained
    assert found.radius == 0
    assert len(found.candidates) == 3


def test_more_samples_certify_a_larger_radius():
    rng = np.random.default_rng(2)
    labels = directions_at(0.0, 0.8)
    selection, estimation = rotation(rng, 50, 0.3, 1), rotation(rng, 4000, 0.3, 1)
    radii = [
        findings_of(labels, selection, estimation[:n], 0.001).radius for n in (200, 1000, 4000)
    ]
    assert radii == sorted(radii)
    assert radii[0] > 0
    assert radii[-1] < 0.4 / 0.3


@pytest.mark.parametrize("selection", [1, 3, 5, 300])
def test_any_selection_size_is_enough(selection):
    rng = np.random.default_rng(3)
    found = findings_of(
        directions_at(0.0, 1.5, 3.0),
        rotation(rng, selection, 0.1, 1),
        rotation(rng, 400, 0.1, 1),
        0.01,
    )
    assert found.candidates[0][0] == "at 0"
    assert 0 < found.radius < 7.5


@given(st.permutations(range(5)), st.integers(0, 99))
@settings(max_examples=30, deadline=None)
def test_the_order_of_the_labels_does_not_matter(order, seed):
    rng = np.random.default_rng(seed)
    angles = [0.05, -0.6, 0.9, 2.0, -2.5]
    selection, estimation = rotation(rng, 20, 0.2, 1), rotation(rng, 150, 0.2, 1)
    plain = findings_of(directions_at(*angles), selection, estimation, 0.01)
    mixed = findings_of(directions_at(*[angles[i] for i in order]), selection, estimation, 0.01)
    assert mixed.candidates[0][0] == plain.candidates[0][0]
    assert mixed.radius == pytest.approx(plain.radius, abs=1e-9)


@given(st.integers(1, 700), st.integers(1, 97))
@settings(max_examples=30, deadline=None)
def test_packing_and_later_samples_change_nothing(samples, chunk):
    rng = np.random.default_rng(5)
    labels = directions_at(0.05, -0.6, 0.9)
    selection, estimation = rotation(rng, 20, 0.2, 1), rotation(rng, 700, 0.2, 1)
    alone = findings_of(labels, selection, estimation[:samples], 0.01, 1)
    among = tally_of(labels, selection, estimation, chunk).findings(samples, 1.0, 0.01)
    assert among == alone


def test_blocks_scored_early_say_the_same(monkeypatch):
    rng = np.random.default_rng(6)
    labels = directions_at(0.05, -0.6, 0.9)
    selection, estimation = rotation(rng, 20, 0.2, 1), rotation(rng, 3000, 0.2, 1)
    late = findings_of(labels, selection, estimation, 0.01)
    monkeypatch.setattr("service.certificate.labels._MOST_WAITING", 1)
    assert findings_of(labels, selection, estimation, 0.01) == late


@given(st.floats(0.001, 0.3), st.floats(0.001, 0.3))
@settings(max_examples=30, deadline=None)
def test_more_confidence_never_certifies_more(one, two):
    rng = np.random.default_rng(9)
    labels = directions_at(0.05, -0.6, 0.9)
    tally = tally_of(labels, rotation(rng, 20, 0.2, 1), rotation(rng, 150, 0.2, 1))
    low, high = sorted((one, two))
    assert tally.findings(150, 1.0, low).radius <= tally.findings(150, 1.0, high).radius


def test_findings_need_their_samples():
    tally = LabelTally(directions_at(0.0, 1.0))
    with pytest.raises(RuntimeError, match="every estimation sample"):
        tally.findings(1, 1.0, 0.01)
    with pytest.raises(RuntimeError, match="embedding"):
        tally.add(Stage.ESTIMATE, np.ones((1, 2), np.float32), None)


def test_equal_directions_are_found_wherever_they_stand():
    rng = np.random.default_rng(4)
    vectors = rng.normal(size=(700, 16))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    assert same_direction(vectors) is None
    vectors[600] = vectors[3] + 1e-5 * rng.normal(size=16)
    vectors[600] /= np.linalg.norm(vectors[600])
    assert same_direction(vectors) == (3, 600)
