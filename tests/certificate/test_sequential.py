import numpy as np
import pytest

from service.certificate import blocks as blocks_module
from service.certificate.certify import certify
from service.certificate.evidence import Mark
from service.certificate.sequential import Sequential, statistics_bytes
from service.certificate.tally import Tally
from service.types import Stage, Target
from tests.certificate.closed_form import rotation
from tests.tiny import plan


def verdict_of(plan, rows, pack=16):
    """Feed samples in batches, look at each checkpoint; the verdict and its mark."""
    tally = Tally(rows.shape[1], plan.selection, plan.estimation, plan.checkpoints)
    sequential = Sequential(plan, tally)
    tally.add(Stage.CLEAN, rows[:1])
    tally.add(Stage.SELECT, rows[1 : 1 + plan.selection])
    rest = rows[1 + plan.selection :][: plan.estimation]
    for start in range(0, plan.estimation, pack):
        for found in tally.add(Stage.ESTIMATE, rest[start : start + pack]):
            if not isinstance(found, Mark):
                tally.absorb(blocks_module.measure(found))
                sequential.pass_block(found)
            elif (verdict := sequential.look(found)) is not None:
                return verdict, tally.evidence(found)
    raise AssertionError("the last checkpoint has a verdict")


@pytest.fixture(scope="module")
def rows():
    return rotation(np.random.default_rng(41), 2101, 0.1, 1)


def test_without_a_target_the_one_look_has_all_of_alpha(rows):
    p = plan(selection=100, estimation=300, sigma=1.0, radii=(0.5, 1.0))
    verdict, evidence = verdict_of(p, rows)
    assert verdict.stopped == "samples"
    assert verdict.findings.samples == 300
    direct = certify(evidence, 1.0, (0.5, 1.0), 1 - p.confidence)
    assert verdict.findings.bounds == direct.bounds


def test_a_target_stops_at_the_first_checkpoint_that_certifies_it(rows):
    target = Target(radius=0.5, bound=0.8)
    p = plan(selection=100, estimation=2000, sigma=1.0, radii=(0.25, 0.5, 1.0), target=target)
    verdict, _ = verdict_of(p, rows)
    assert verdict.stopped == "target"
    assert verdict.findings.samples in p.checkpoints[:12]
    inner, at, outer = verdict.findings.bounds
    assert inner.bound >= 0.8
    assert at.bound >= 0.8
    assert outer.bound < at.bound
    assert verdict.findings.certified_radius.radius >= 0.5


def test_with_a_target_the_cone_has_what_the_pursuit_and_other_looks_leave_of_alpha(rows):
    target = Target(radius=0.5, bound=0.8)
    p = plan(selection=100, estimation=2000, sigma=1.0, radii=(1.0,), target=target)
    verdict, evidence = verdict_of(p, rows)
    share = 0.2 * (1 - p.confidence) / len(p.checkpoints)
    direct = certify(evidence, 1.0, (1.0,), share)
    np.testing.assert_array_equal(verdict.findings.cone.survival, direct.cone.survival)
    assert verdict.findings.cone.second_moment == direct.cone.second_moment
    assert verdict.findings.bounds[0].bound == pytest.approx(direct.bounds[0].bound, abs=1e-12)


@pytest.mark.parametrize("radius", [2.0, 30.0])
def test_a_target_out_of_reach_is_called_infeasible_early(rows, radius):
    p = plan(selection=100, estimation=2000, sigma=1.0, target=Target(radius, 0.98))
    verdict, _ = verdict_of(p, rows)
    assert verdict.stopped == "infeasible"
    assert verdict.findings.samples <= 256


def test_a_target_that_the_samples_do_not_reach_spends_them_all(rows):
    p = plan(selection=100, estimation=60, sigma=1.0, target=Target(0.5, 0.98))
    verdict, _ = verdict_of(p, rows)
    assert (verdict.stopped, verdict.findings.samples) == ("samples", 60)


@pytest.mark.parametrize("pack", [1, 7, 500])
def test_packing_does_not_move_the_stop(rows, pack):
    p = plan(selection=100, estimation=2000, sigma=1.0, radii=(0.5,), target=Target(0.5, 0.85))
    one, _ = verdict_of(p, rows, 16)
    other, _ = verdict_of(p, rows, pack)
    assert one.findings.samples == other.findings.samples
    assert one.findings.bounds == other.findings.bounds


def test_a_target_is_pursued_through_full_blocks(rows, monkeypatch):
    monkeypatch.setattr(blocks_module, "_BLOCK_ROWS", 50)
    p = plan(selection=100, estimation=2000, sigma=1.0, radii=(0.5,), target=Target(0.5, 0.8))
    verdict, _ = verdict_of(p, rows)
    assert verdict.stopped == "target"
    assert verdict.findings.samples <= 400


def test_the_stated_memory_counts_the_gram_matrix_of_a_pursuit():
    exact, pursued = plan(estimation=1000), plan(estimation=1000, target=Target(0.1, 0.9))
    assert statistics_bytes(pursued, 1280) - statistics_bytes(exact, 1280) == 8 * 1000 * 1000
    assert statistics_bytes(plan(certify=False), 1280) < 200_000
