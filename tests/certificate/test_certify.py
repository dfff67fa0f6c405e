import math

import numpy as np
import pytest
from scipy.optimize import brentq
from scipy.stats import beta, binom, norm

from service.certificate.certify import certify, cone_of, survival_lower
from service.certificate.intervals import betting_lower, kl_upper
from service.certificate.joint import joint_angle
from tests.certificate.closed_form import (
    evidence_of,
    rotation,
    rotation_truth,
    step,
    step_truth,
)

ALPHA = 0.3
TRIALS = 150
# A sound event fails in at most alpha of the trials; this many failures has probability < 1e-6.
FALSE_ALARM = 1e-6
MOST_FAILURES = int(binom.isf(FALSE_ALARM, TRIALS, ALPHA))
SHIFTS = (0.5, 1.0, 2.0)


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


def test_robustness_score_lower_bound_fails_in_at_most_its_alpha():
    rng = np.random.default_rng(17)
    q, n, failures = 0.7, 80, 0
    for _ in range(TRIALS):
        failures += betting_lower((rng.random(n) < q).astype(float), ALPHA) > q
    assert 0 < failures <= MOST_FAILURES


def test_served_means_keep_the_served_bound():
    """Fresh means at the worst shifted picture, at confidence 1 - alpha - alpha'."""
    rng = np.random.default_rng(18)
    c, draws, wrong, informative = 0.2, 400, 0, 0
    for _ in range(TRIALS):
        evidence = rotation_evidence(rng, selection=draws, estimation=200, c=c)
        cone = cone_of(evidence, ALPHA)
        shifted = rotation(rng, draws, c, 1.0).astype(float)
        # away from the embedding, whichever side of F it fell on
        own = math.atan2(evidence.embedding[1], evidence.embedding[0])
        turn = -math.copysign(c * 0.5, own)
        turned = shifted @ np.array(
            [[math.cos(turn), math.sin(turn)], [-math.sin(turn), math.cos(turn)]]
        )
        mean = turned.mean(0)
        cosine = mean @ evidence.embedding / np.linalg.norm(mean)
        served = cone.served_bound(0.5, cone.angle(0.5)[0], draws, ALPHA)
        informative += served > 0
        wrong += served > cosine + 1e-6
    assert informative == TRIALS
    assert wrong <= int(binom.isf(FALSE_ALARM, TRIALS, 2 * ALPHA))


def test_every_figure_is_what_the_page_says():
    """docs/certificate.md recomputed from the raw samples, with levels, sigma and n0 spelt out."""
    rng = np.random.default_rng(25)
    alpha, sigma, n0, n, d = 0.02, 0.25, 60, 200, 12
    rows = rng.normal(size=(1 + n0 + n, d)) * 0.12
    rows[:, 0] += 1
    rows = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    clean, selection, estimation = rows[:1], rows[1 : 1 + n0], rows[1 + n0 :]
    evidence = evidence_of(clean, selection, estimation)
    radii = (0.0, 0.1, 0.25)
    findings = certify(evidence, sigma, radii, alpha)

    u = evidence.embedding.astype(float)
    u /= np.linalg.norm(u)
    f = estimation.astype(float)
    f /= np.linalg.norm(f, axis=1, keepdims=True)
    s = f @ u
    h = f - s[:, None] * u

    # A, at 0.7 alpha: half of it on the lowest threshold, the rest shared by the others
    t = evidence.thresholds
    levels = [0.35 * alpha] + [0.35 * alpha / (len(t) - 1)] * (len(t) - 1)
    k = [(s >= x).sum() for x in t]
    p = [beta.ppf(a, x, n - x + 1) if x else 0.0 for x, a in zip(k, levels, strict=True)]
    p = np.maximum.accumulate(p[::-1])[::-1]

    # B, at 0.2 alpha: the smallest lambda at which a stake of 0.97/(1-lambda) wins 1/level
    def wealth(value):
        stake, radii = 0.97 / (1 - value), (h * h).sum(1)
        price = np.log((1 + stake * value) / (1 + stake * (value - radii))) / radii
        top = np.linalg.eigvalsh((h * price[:, None]).T @ h)[-1]
        return n * math.log1p(stake * value) - top - math.log(1 / (0.2 * alpha))

    lam = brentq(wealth, 1e-6, 0.9)
    # C, at 0.1 alpha: Bennett
    level = math.log(1 / (0.1 * alpha))
    slack = brentq(
        lambda x: n * lam * ((1 + x / lam) * math.log1p(x / lam) - x / lam) - level, 0, 1
    )
    mu = min(np.linalg.norm(h.mean(0)) + slack, math.sqrt(lam), 1.0)
    np.testing.assert_allclose(evidence.projections, s, atol=1e-13)  # the served u, to the bit
    np.testing.assert_allclose(findings.cone.survival, p, atol=1e-6)
    assert lam <= findings.cone.second_moment <= lam * 1.001
    assert mu <= findings.cone.mean <= mu * 1.001

    def h_of(x):
        return (1 + x) * math.log1p(x) - x

    def a_of(r):
        return -1 + np.sum(np.diff(t, prepend=-1.0) * norm.cdf(norm.ppf(p) - r))

    def plain(r):
        z = np.linspace(-8, 8 + 2 * r, 20_001)
        push = np.sqrt(lam * math.exp(r * r) * norm.cdf(z - 2 * r)) + norm.sf(z - r)
        b = min(mu + math.sqrt(lam * math.expm1(r * r)), push.min(), 1.0)
        angles = [math.acos(a_of(r)), math.atan2(b, a_of(r))]
        tau, reach = 2 * norm.cdf(r) - 1, math.hypot(a_of(0), mu)
        third = math.atan2(mu, a_of(0)) + math.asin(tau / reach) if tau < reach else math.pi
        return min([*angles, third])

    def sharp(r):
        return min(plain(r), joint_angle(t, np.array(p), lam, mu, r, plain(r)))

    gains = (1 + f @ clean[0]) / 2
    score = betting_lower(gains, alpha)
    assert findings.score.estimate == pytest.approx(gains.mean(), abs=1e-6)
    assert findings.score.lower == pytest.approx(score, abs=1e-6)
    for found in findings.bounds:
        r = found.radius / sigma
        a = a_of(r)
        assert found.bound >= math.cos(plain(r)) - 1e-3
        assert found.bound == pytest.approx(math.cos(sharp(r)), abs=2e-3)
        paper = 2 * norm.cdf(norm.ppf(score) - r) - 1
        assert found.paper == pytest.approx(paper if paper >= 0 else -1, abs=1e-6)
        v = 1 - a * a
        mcdiarmid = (math.sqrt(v) + math.sqrt(2 * math.log(1 / alpha))) / math.sqrt(n0)
        ratio = (
            min(
                mcdiarmid,
                brentq(lambda t, v=v: n0 * v / 4 * h_of(2 * t / v) - math.log(2 / alpha), 1e-9, 5),
            )
            / a
        )
        served = math.cos(sharp(r) + math.asin(ratio)) if ratio < 1 else -1.0
        assert found.served_bound == pytest.approx(served, abs=3e-3)
    edge = findings.certified_radius.radius / sigma
    assert math.cos(sharp(edge)) == pytest.approx(0.5, abs=0.02)


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


def test_bounds_fall_strictly_in_order_however_finely_they_are_asked():
    rng = np.random.default_rng(26)
    radii = tuple(np.linspace(0, 0.6, 40))
    findings = certify(
        rotation_evidence(rng, selection=100, estimation=400, c=0.2), 0.25, radii, 0.01
    )
    values = [b.bound for b in findings.bounds]
    assert values == sorted(values, reverse=True)
    assert max(b.radius for b in findings.bounds if b.bound >= 0.5) <= (
        findings.certified_radius.radius
    )


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
