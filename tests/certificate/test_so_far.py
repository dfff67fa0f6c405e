"""Bounds so far: what a look that goes on may state."""

import math
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from scipy.stats import binom

from service.certificate import blocks as blocks_module
from service.certificate import sequential as sequential_module
from service.certificate.certify import cone_of
from service.certificate.evidence import Mark
from service.certificate.sequential import Sequential
from service.certificate.tally import Tally
from service.types import Stage, Target
from tests.certificate.closed_form import rotation
from tests.tiny import plan

FALSE_ALARM = 1e-6


def started(plan, rows):
    """A tally whose selection sample is complete, and the looks at it."""
    tally = Tally(rows.shape[1], plan.selection, plan.estimation, plan.checkpoints)
    tally.add(Stage.CLEAN, rows[:1])
    tally.add(Stage.SELECT, rows[1 : 1 + plan.selection])
    return tally, Sequential(plan, tally)


def looks_of(plan, rows):
    """Every look of a run, with what was certified so far, and the verdict that ended it."""
    tally, sequential = started(plan, rows)
    looks = []
    for found in tally.add(Stage.ESTIMATE, rows[1 + plan.selection :][: plan.estimation]):
        if not isinstance(found, Mark):
            tally.absorb(blocks_module.measure(found))
            sequential.pass_block(found)
            continue
        verdict = sequential.look(found)
        if verdict is not None:
            return tally, looks, verdict
        looks.append((found, sequential.so_far(found)))
    raise AssertionError("the last checkpoint has a verdict")


def pursuing(bound=0.9, radii=(0.25, 0.5, 1.0), estimation=600, **fields):
    target = Target(0.5, bound)
    return plan(
        selection=60, estimation=estimation, sigma=1.0, radii=radii, target=target, **fields
    )


@pytest.fixture(scope="module")
def rows():
    return rotation(np.random.default_rng(41), 2101, 0.1, 1)


@pytest.fixture
def patient(monkeypatch):
    """A pursuit that never ends the sampling: every look but the last goes on."""
    pursuit = "service.certificate.pursuit.Pursuit"
    monkeypatch.setattr(f"{pursuit}.reached", property(lambda _: False))
    monkeypatch.setattr(f"{pursuit}.hopeless", lambda *_: False)


def share_of(plan):
    return 0.2 * (1 - plan.confidence) / len(plan.checkpoints)


@pytest.mark.parametrize("block", [1024, 85])
def test_no_look_states_more_than_the_certificates_up_to_it_would_have(
    monkeypatch, patient, rows, block
):
    """The same events at the same share of alpha, from fewer arguments; what held before stays."""
    monkeypatch.setattr(blocks_module, "_BLOCK_ROWS", block)
    p = pursuing(estimation=300)
    tally, looks, _ = looks_of(p, rows)
    assert len(looks) == len(p.checkpoints) - 1
    cones = [cone_of(tally.evidence(mark), share_of(p)) for mark, _ in looks]
    best = dict.fromkeys(p.radii, -1.0)
    for (mark, look), cone in zip(looks, cones, strict=True):
        assert look.samples == mark.samples
        for told in look.bounds:
            best[told.radius] = max(best[told.radius], cone.bound(told.radius)[0])
            assert told.bound <= best[told.radius] + 1e-9


@pytest.mark.parametrize("block", [1024, 85])
def test_the_gram_matrix_that_is_there_already_gives_the_same_bounds(
    monkeypatch, patient, rows, block
):
    """Up to how closely the largest eigenvalue of an open block is bounded."""
    monkeypatch.setattr(blocks_module, "_BLOCK_ROWS", block)
    p = pursuing(estimation=300)
    tally, looks, _ = looks_of(p, rows)
    best = dict.fromkeys(p.radii, -1.0)
    for mark, look in looks:
        cone = cone_of(tally.evidence(mark), share_of(p))
        for told in look.bounds:
            angle, method = cone.plain_angle(told.radius)
            bound = -1.0 if method == "none" else math.cos(angle)
            best[told.radius] = max(best[told.radius], bound)
            assert told.bound == pytest.approx(best[told.radius], abs=2e-3)


def test_bounds_so_far_never_fall_and_certify_the_target_in_the_end(patient, rows):
    p = pursuing(bound=0.6, estimation=1500)
    _, looks, verdict = looks_of(p, rows)
    for (_, one), (_, two) in pairwise(looks):
        assert [b.radius for b in two.bounds] == list(p.radii)
        assert all(a.bound <= b.bound for a, b in zip(one.bounds, two.bounds, strict=True))
        assert not (one.reached and not two.reached)
    assert not looks[0][1].reached
    assert looks[-1][1].reached
    assert looks[-1][1].bounds[1].bound >= 0.6
    assert verdict.stopped == "target"


def test_asking_changes_nothing_of_the_verdict(rows):
    p = pursuing(bound=0.95)
    _, looks, verdict = looks_of(p, rows)
    assert looks

    tally, sequential = started(p, rows)
    marks = tally.add(Stage.ESTIMATE, rows[1 + p.selection :][: p.estimation])
    alone = next(v for mark in marks if (v := sequential.look(mark)) is not None)
    assert alone.findings.bounds == verdict.findings.bounds
    assert alone.stopped == verdict.stopped


def test_without_a_target_no_look_but_the_last_may_state_a_bound(rows):
    p = plan(selection=60, estimation=100, sigma=1.0)
    tally, sequential = started(p, rows)
    (mark,) = tally.add(Stage.ESTIMATE, rows[61:161])
    with pytest.raises(RuntimeError, match="last look"):
        sequential.so_far(mark)


class Unread:
    """Findings that cost nothing to make."""

    def bound_at(self, _):
        return -1.0


def test_the_looks_of_a_stream_are_all_true_but_for_their_share_of_alpha(monkeypatch, patient):
    """Event A over all looks, on a law of three atoms; false-alarm rate 1e-6.

    The control shows that looks with all of alpha each would be caught.
    """
    monkeypatch.setattr("service.certificate.pursuit.Pursuit._choose", lambda *_: None)
    atoms = np.array([[1, 0], [math.cos(1.2), math.sin(1.2)], [math.cos(1.2), -math.sin(1.2)]])
    chances = np.array([0.7, 0.15, 0.15])
    alpha, trials, rng = 0.9, 200, np.random.default_rng(77)
    p = replace(pursuing(estimation=200), confidence=1 - alpha)
    seen = []

    def record(evidence, _, radii, share):
        seen.append((evidence, share))
        return dict.fromkeys(radii, -1.0)

    def record_last(evidence, *_, cone_alpha, **__):
        seen.append((evidence, cone_alpha))
        return Unread()

    def holds(evidence, share, u):
        """Clopper-Pearson exceeds p exactly where as many successes have less than its level."""
        t, s = evidence.thresholds[:, None], evidence.projections
        truth = (chances * (atoms @ u >= t - 1e-9)).sum(1)
        levels = 0.7 * share * np.array([0.5] + [0.5 / (len(t) - 1)] * (len(t) - 1))
        return bool(np.all(binom.sf((s >= t).sum(1) - 1, len(s), truth) >= levels - 1e-12))

    monkeypatch.setattr(sequential_module, "bounds_so_far", record)
    monkeypatch.setattr(sequential_module, "certify", record_last)
    wrong = control = 0
    for _ in range(trials):
        seen.clear()
        rows = atoms[rng.choice(3, 261, p=chances)].astype(np.float32)
        tally, _, _ = looks_of(p, rows)
        assert len(seen) == len(p.checkpoints)
        wrong += not all(holds(*look, tally.direction) for look in seen)
        control += not all(holds(evidence, alpha, tally.direction) for evidence, _ in seen)
    assert wrong <= binom.isf(FALSE_ALARM, trials, 0.2 * alpha) < control
