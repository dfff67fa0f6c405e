import json
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.certificate.bounds import (
    Cone,
    law_lower,
    mean_distance,
    mean_upper,
    orthogonal_push,
    paper_bound,
)
from service.certificate.intervals import clopper_pearson_lower, kl_upper

VECTORS = json.loads((Path(__file__).parent / "vectors.json").read_text())
SHIFTS = st.floats(0, 6)


@pytest.mark.parametrize("case", VECTORS["paper_fcsb"], ids=str)
def test_paper_bound_agrees_with_the_vectors_and_is_never_a_negative_cosine(case):
    found = paper_bound(case["score"], case["shift"])
    expected = case["value"] if case["value"] >= 0 else -1.0
    assert found == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("case", VECTORS["orthogonal_push_b"], ids=str)
def test_orthogonal_push_agrees_with_the_vectors(case):
    found = orthogonal_push(case["lambda"], case["mu"], case["shift"])
    assert found == pytest.approx(case["value"], abs=case["tol"])


def cone_of_vector(case):
    """The plain events of the vectors: alpha/3 each, A's share split evenly."""
    estimation, u = np.array(case["estimation"]), np.array(case["u"])
    n, alpha = len(estimation), case["alpha"]
    s = estimation @ u
    h = estimation - s[:, None] * u
    thresholds = np.array(case["thresholds"])
    survival = np.array(
        [
            clopper_pearson_lower(int((s >= t).sum()), n, alpha / 3 / len(thresholds))
            for t in thresholds
        ]
    )
    log_inverse = math.log(3 / alpha)
    second = kl_upper(float(np.linalg.eigvalsh(h.T @ h / n)[-1]), log_inverse / n)
    tail = 2 * log_inverse / (3 * n)  # Bernstein, M = 2
    slack = tail + math.sqrt(tail * tail + 2 * second * log_inverse / n)
    mean = min(float(np.linalg.norm(h.mean(0))) + slack, math.sqrt(second), 1.0)
    return Cone(thresholds, survival, second, mean)


@pytest.mark.parametrize("case", VECTORS["full_certificate"], ids=["20+60", "40+200"])
def test_whole_certificate_agrees_with_the_vectors(case):
    cone = cone_of_vector(case)
    np.testing.assert_allclose(cone.survival, case["survival_lower"], atol=1e-6)
    assert cone.second_moment == pytest.approx(case["lambda_upper"], abs=1e-6)
    assert cone.mean == pytest.approx(case["mu_upper"], abs=1e-6)
    for row in case["by_shift"]:
        shift = row["shift"]
        assert cone.inner(shift) == pytest.approx(row["a"], abs=1e-6)
        push = orthogonal_push(cone.second_moment, cone.mean, shift)
        assert push == pytest.approx(row["b"], abs=row["tol"])
        plain, method = cone.plain_angle(shift)
        bound = -1.0 if method == "none" else math.cos(plain)
        assert bound == pytest.approx(row["bound_about_u"], abs=row["tol"])
        assert cone.bound(shift)[0] >= bound


def cones():
    def build(edges, masses, second, mean):
        thresholds = np.unique(np.clip(edges, -1, 1))
        survival = np.sort(masses[: len(thresholds)])[::-1]
        return Cone(thresholds, survival, second, min(mean, math.sqrt(second)))

    return st.builds(
        build,
        st.lists(st.floats(-1, 1), min_size=1, max_size=6),
        st.lists(st.floats(0, 0.9999), min_size=6, max_size=6),
        st.floats(1e-6, 1),
        st.floats(0, 1),
    )


@given(cones(), SHIFTS, SHIFTS)
def test_bound_falls_with_the_shift(cone, one, other):
    near, far = sorted((one, other))
    assert cone.plain_angle(far)[0] >= cone.plain_angle(near)[0] - 1e-6


@settings(max_examples=30, deadline=None)
@given(cones(), st.floats(0, 3), st.floats(0.2, 1))
def test_bound_falls_with_the_shift_up_to_the_slack_of_its_search(cone, near, more):
    assert cone.bound(near + more)[0] <= cone.bound(near)[0] + 0.02


@settings(max_examples=50, deadline=None)
@given(cones(), SHIFTS)
def test_bound_is_a_cosine_and_minus_one_exactly_where_nothing_holds(cone, shift):
    bound, method = cone.bound(shift)
    assert -1 <= bound <= 1
    assert (method == "none") == (bound == -1)


@given(cones(), SHIFTS, st.integers(1, 10_000))
def test_served_bound_never_exceeds_the_bound(cone, shift, draws):
    angle, method = cone.plain_angle(shift)
    bound = -1.0 if method == "none" else math.cos(angle)
    assert cone.served_bound(shift, angle, draws, 0.001) <= bound + 1e-12


@settings(max_examples=20, deadline=None)
@given(cones(), st.floats(0.01, 0.99))
def test_largest_shift_is_on_the_sound_side(cone, threshold):
    shift = cone.largest_shift(threshold)
    if shift > 0:
        assert cone.bound(shift)[0] >= threshold
    assert cone.bound(shift + 0.1)[0] < threshold + 0.02


@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.9])
@pytest.mark.parametrize("mean", [0.02, 0.1])
def test_largest_shift_is_the_last_at_which_the_angle_holds(threshold, mean):
    cone = Cone(np.array([0.5, 0.8, 0.85]), np.array([0.98, 0.95, 0.7]), 0.03, mean)
    shift = cone.largest_shift(threshold)
    assert cone.angle(shift)[0] <= math.acos(threshold)
    assert cone.angle(shift * 1.005)[0] > math.acos(threshold)
    assert cone.plain_angle(shift)[0] > math.acos(threshold)  # by the joint problem


def test_nothing_is_certified_at_absurd_shifts():
    cone = Cone(np.array([0.9]), np.array([0.99]), 0.01, 0.01)
    for shift in (21.0, 1e6, 1e300):
        assert cone.bound(shift) == (-1.0, "none")
        assert cone.served_bound(shift, math.pi, 100, 0.001) == -1.0


@pytest.mark.parametrize("samples", [20, 200, 5000])
@pytest.mark.parametrize("second", [1e-9, 0.01, 0.5, 1.0])
def test_bennett_solves_its_equation_on_the_safe_side(samples, second):
    log_inverse = math.log(1 / 0.001)
    found = mean_upper(0.0, second, log_inverse, samples)
    if found < min(math.sqrt(second), 1.0):
        x = found / second
        assert samples * second * ((1 + x) * math.log1p(x) - x) >= log_inverse
    tail = log_inverse / (3 * samples)
    bernstein = tail + math.sqrt(tail * tail + 2 * second * log_inverse / samples)
    assert found <= bernstein + 1e-9


def test_survival_at_a_higher_threshold_also_counts_below_it():
    uneven = law_lower(np.array([0.0, 0.5]), np.array([0.2, 0.8]), 0.3)
    assert uneven == law_lower(np.array([0.0, 0.5]), np.array([0.8, 0.8]), 0.3)


def test_exact_laws_of_a_half_space_step_are_never_overstated():
    """One unit vector on a half space, another beyond it: the truth is in closed form."""
    from scipy.special import ndtr, ndtri

    rng = np.random.default_rng(5)
    for _ in range(300):
        p, half, shift = rng.uniform(0.6, 0.999), rng.uniform(0.05, 1.2), rng.uniform(0, 3)
        first = np.array([math.cos(half), math.sin(half)])
        second = np.array([math.cos(half), -math.sin(half)])
        mean = p * first + (1 - p) * second
        u = mean / np.linalg.norm(mean)
        values = np.sort([first @ u, second @ u])
        lowest_first = first @ u <= second @ u
        survival = np.array([1.0, 1 - p if lowest_first else p])
        w = np.array([-u[1], u[0]])
        second_moment = p * (first @ w) ** 2 + (1 - p) * (second @ w) ** 2
        # The kinks of <u, f> are its two values: with the exact law, mu = 0 about the exact mean.
        cone = Cone(values, np.clip(survival, 0, 1 - 1e-16), second_moment, 0.0)
        # The worst shift moves all of epsilon towards the second half space.
        q = ndtr(ndtri(p) - shift)
        truth = q * first + (1 - q) * second
        cosine = truth @ u / np.linalg.norm(truth)
        assert cone.bound(shift)[0] <= cosine + 1e-9


@pytest.mark.parametrize(("spread", "draws"), [(0.05, 100), (0.3, 100), (0.3, 20), (1.0, 400)])
def test_means_of_unit_vectors_stay_within_the_stated_distance(spread, draws):
    """At alpha = 0.1 over 2,000 trials; false alarm below 1e-6. The bound is conservative."""
    rng = np.random.default_rng(draws)
    rows = rng.normal(size=(200_000, 3)) * spread + np.array([1.0, 0, 0])
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    truth = rows.mean(0)
    limit = mean_distance(float(np.linalg.norm(truth)), draws, 0.1)
    means = rows[rng.integers(len(rows), size=(2000, draws))].mean(1)
    wrong = int((np.linalg.norm(means - truth, axis=1) > limit).sum())
    assert wrong <= 200 + 5 * 14


@given(st.floats(0, 1), st.integers(1, 10_000), st.floats(1e-5, 0.5))
def test_the_distance_of_a_mean_falls_with_draws_norm_and_alpha(norm, draws, alpha):
    here = mean_distance(norm, draws, alpha)
    assert here > 0
    assert mean_distance(norm, 2 * draws, alpha) <= here
    assert mean_distance(norm, draws, min(0.9, 2 * alpha)) <= here
    assert mean_distance(min(1.0, norm + 0.1), draws, alpha) <= here + 1e-9
    mcdiarmid = math.sqrt(max(1 - norm**2, 0)) + math.sqrt(2 * math.log(1 / alpha))
    assert here <= mcdiarmid / math.sqrt(draws) + 1e-6
