import math

import numpy as np
import pytest
from scipy.stats import binom

from service.certificate.certify import certify, cone_of, survival_lower
from service.certificate.intervals import kl_lower, kl_upper
from tests.certificate.closed_form import (
    evidence_of,
    rotation,
    rotation_truth,
    step,
    step_truth,
)

ALPHA = 0.3
TRIALS = 400
# A sound event fails in at most alpha of the trials; this many failures has probability < 1e-6.
FALSE_ALARM = 1e-6
MOST_FAILURES = int(binom.isf(FALSE_ALARM, TRIALS, ALPHA))
SHIFTS = (0.0, 0.25, 0.5, 1.0, 2.0)


def rotation_evidence(rng, selection=30, estimation=60, c=0.8):
    clean = rotation(rng, 1, 0.0, 1.0)
    return evidence_of(clean, rotation(rng, selection, c, 1.0), rotation(rng, estimation, c, 1.0))


@pytest.mark.parametrize("c", [0.1, 0.4, 0.8])
def test_rotation_bounds_exceed_the_truth_in_at_most_alpha_of_the_runs(c):
    rng = np.random.default_rng(11)
    wrong = 0
    for _ in range(TRIALS):
        evidence = rotation_evidence(rng, c=c)
        cone = cone_of(evidence, ALPHA)
        wrong += any(
            cone.bound(r)[0] > rotation_truth(evidence.embedding, c, 1.0, r) + 1e-6 for r in SHIFTS
        )
    assert wrong <= MOST_FAILURES


@pytest.mark.parametrize(("edge", "half"), [(2.0, 0.3), (1.0, 1.0), (2.5, 1.5)])
def test_step_bounds_exceed_the_truth_in_at_most_alpha_of_the_runs(edge, half):
    rng = np.random.default_rng(12)
    wrong = 0
    for _ in range(TRIALS):
        evidence = evidence_of(
            step(rng, 1, 9, half), step(rng, 30, edge, half), step(rng, 60, edge, half)
        )
        cone = cone_of(evidence, ALPHA)
        wrong += any(
            cone.bound(r)[0] > step_truth(evidence.embedding, edge, half, r) + 1e-6 for r in SHIFTS
        )
    assert wrong <= MOST_FAILURES


def test_event_a_alone_fails_in_at_most_its_alpha_and_comes_near_it():
    """Bernoulli projections: the exact interval has no room to hide an error in its level."""
    rng = np.random.default_rng(13)
    p, n, failures = 0.85, 80, 0
    for _ in range(TRIALS):
        s = np.where(rng.random(n) < p, 0.9, 0.1)
        failures += survival_lower(s, np.array([0.5]), ALPHA)[0] > p
    assert binom.isf(1 - FALSE_ALARM, TRIALS, 0.1) <= failures <= MOST_FAILURES


def test_event_a_holds_jointly_over_its_thresholds():
    rng = np.random.default_rng(14)
    thresholds, n, failures = np.array([0.1, 0.3, 0.5, 0.9]), 80, 0
    truth = 1 - thresholds
    for _ in range(TRIALS):
        failures += bool((survival_lower(rng.random(n), thresholds, ALPHA) > truth).any())
    assert failures <= MOST_FAILURES


def test_event_b_alone_fails_in_at_most_its_alpha():
    """h = ±e or 0: lambda is a Bernoulli probability, and the sample eigenvalue its mean."""
    rng = np.random.default_rng(15)
    q, n, failures = 0.2, 80, 0
    for _ in range(TRIALS):
        mean = (rng.random(n) < q).mean()
        failures += kl_upper(mean, math.log(1 / ALPHA) / n) < q
    assert 0 < failures <= MOST_FAILURES


def test_event_c_alone_fails_in_at_most_its_alpha():
    from service.certificate.bounds import mean_push_upper

    rng = np.random.default_rng(16)
    q, n, failures = 0.2, 80, 0
    for _ in range(TRIALS):
        mean = (rng.random(n) < q).mean()
        failures += mean_push_upper(mean, q, math.log(1 / ALPHA), n, 2.0) < q
    assert failures <= MOST_FAILURES


def test_robustness_score_lower_bound_fails_in_at_most_its_alpha():
    rng = np.random.default_rng(17)
    q, n, failures = 0.7, 80, 0
    for _ in range(TRIALS):
        failures += kl_lower((rng.random(n) < q).mean(), math.log(1 / ALPHA) / n) > q
    assert 0 < failures <= MOST_FAILURES


def test_served_means_keep_the_served_bound():
    """Fresh means at the worst shifted picture, at confidence 1 - alpha - alpha'."""
    rng = np.random.default_rng(18)
    c, draws, wrong, informative = 0.2, 400, 0, 0
    for _ in range(TRIALS):
        evidence = rotation_evidence(rng, selection=draws, estimation=200, c=c)
        cone = cone_of(evidence, ALPHA)
        shifted = rotation(rng, draws, c, 1.0).astype(float)
        turn = c * 0.5
        turned = shifted @ np.array(
            [[math.cos(turn), math.sin(turn)], [-math.sin(turn), math.cos(turn)]]
        )
        mean = turned.mean(0)
        cosine = mean @ evidence.embedding / np.linalg.norm(mean)
        served = cone.served_bound(0.5, draws, ALPHA)
        informative += served > 0
        wrong += served > cosine + 1e-6
    assert informative == TRIALS
    assert wrong <= int(binom.isf(FALSE_ALARM, TRIALS, 2 * ALPHA))


def test_replicating_every_sample_raises_the_bound():
    rng = np.random.default_rng(19)
    clean, selection = rotation(rng, 1, 0, 1), rotation(rng, 30, 0.3, 1)
    estimation = rotation(rng, 100, 0.3, 1)
    once = cone_of(evidence_of(clean, selection, estimation), 0.01)
    tenfold = cone_of(evidence_of(clean, selection, np.repeat(estimation, 10, 0)), 0.01)
    for r in SHIFTS:
        assert tenfold.bound(r)[0] >= once.bound(r)[0]


def test_sample_order_does_not_matter():
    rng = np.random.default_rng(20)
    clean, selection = rotation(rng, 1, 0, 1), rotation(rng, 30, 0.3, 1)
    estimation = rotation(rng, 100, 0.3, 1)
    one = cone_of(evidence_of(clean, selection, estimation), 0.01)
    two = cone_of(evidence_of(clean, selection, estimation[::-1].copy()), 0.01)
    for r in SHIFTS:
        assert one.bound(r)[0] == pytest.approx(two.bound(r)[0], abs=1e-9)


def test_findings_keep_the_order_of_the_radii_and_repeat_what_was_asked():
    rng = np.random.default_rng(21)
    radii = (0.5, 0.0, 0.125, 0.5)
    findings = certify(rotation_evidence(rng, c=0.2), 0.25, radii, 0.01)
    assert tuple(b.radius for b in findings.bounds) == radii
    assert findings.bounds[0] == findings.bounds[3]
    assert findings.bounds[1].bound >= findings.bounds[2].bound >= findings.bounds[0].bound


def test_higher_confidence_never_certifies_more():
    rng = np.random.default_rng(22)
    evidence = rotation_evidence(rng, c=0.2)
    loose = certify(evidence, 0.25, (0.125,), 0.1).bounds[0]
    tight = certify(evidence, 0.25, (0.125,), 1e-9).bounds[0]
    assert tight.bound < loose.bound
    assert tight.paper <= loose.paper


def test_a_feature_without_any_stability_certifies_nothing_far_away():
    rng = np.random.default_rng(23)
    rows = rng.normal(size=(400, 16))
    rows = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    findings = certify(evidence_of(rows[:1], rows[1:101], rows[101:]), 0.25, (0.5,), 0.001)
    assert findings.bounds[0].bound == -1
    assert findings.bounds[0].method == "none"
    assert findings.certified_radius.radius == 0
