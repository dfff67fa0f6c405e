import numpy as np
import pytest

from service.certificate import tally as tally_module
from service.certificate.certify import cone_of
from service.certificate.tally import Tally, block_rows, measure, tally_bytes
from service.types import Stage


def unit_rows(rng, count, dimensions):
    rows = rng.normal(size=(count, dimensions)) * 0.3
    rows[:, 0] += 1
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def fill(tally, stages, packing):
    """Feed all stages in pieces of the given sizes, in turn."""
    for stage, features in stages:
        start, turn = 0, 0
        while start < len(features):
            size = packing[turn % len(packing)]
            for block in tally.add(stage, features[start : start + size]):
                tally.absorb(measure(block))
            start += size
            turn += 1
    return tally


@pytest.fixture
def stages():
    rng = np.random.default_rng(7)
    return [
        (Stage.CLEAN, unit_rows(rng, 1, 12)),
        (Stage.SELECT, unit_rows(rng, 40, 12)),
        (Stage.ESTIMATE, unit_rows(rng, 130, 12)),
    ]


def test_evidence_equals_the_direct_computation(stages):
    evidence = fill(Tally(12, 40, 130), stages, [16]).evidence()
    clean, selection, estimation = (features.astype(np.float64) for _, features in stages)
    u = selection.mean(0) / np.linalg.norm(selection.mean(0))
    s = estimation @ u
    h = estimation - s[:, None] * u
    np.testing.assert_allclose(evidence.embedding, u, atol=1e-6)
    np.testing.assert_allclose(evidence.projections, s, atol=1e-6)
    np.testing.assert_allclose(evidence.reference_cosines, estimation @ clean[0], atol=1e-6)
    assert evidence.mean_norm == pytest.approx(np.linalg.norm(h.mean(0)), abs=1e-6)
    top = np.linalg.eigvalsh(h.T @ h / 130)[-1]
    assert np.linalg.eigvalsh(evidence.spectrum.T @ evidence.spectrum)[-1] / 130 == pytest.approx(
        top, abs=1e-6
    )
    assert evidence.fidelity == pytest.approx(u @ clean[0], abs=1e-6)


@pytest.mark.parametrize("packing", [[1], [16], [3, 50, 1], [1000]])
def test_packing_into_batches_changes_nothing_to_the_last_bit(stages, packing):
    alone = fill(Tally(12, 40, 130), stages, [7]).evidence()
    packed = fill(Tally(12, 40, 130), stages, packing).evidence()
    np.testing.assert_array_equal(alone.embedding, packed.embedding)
    np.testing.assert_array_equal(alone.thresholds, packed.thresholds)
    np.testing.assert_array_equal(alone.projections, packed.projections)
    assert alone.mean_norm == packed.mean_norm
    np.testing.assert_array_equal(alone.spectrum, packed.spectrum)


def test_blocks_bound_the_whole_from_above(stages, monkeypatch):
    whole = fill(Tally(12, 40, 130), stages, [16]).evidence()
    monkeypatch.setattr(tally_module, "_BLOCK_ROWS", 30)
    blocks = fill(Tally(12, 40, 130), stages, [16]).evidence()
    exact = np.linalg.eigvalsh(whole.spectrum.T @ whole.spectrum)[-1] / 130
    assert exact <= blocks.spectrum < 2 * exact
    assert blocks.mean_norm == whole.mean_norm


def test_a_block_of_token_maps_stays_within_its_memory():
    assert block_rows(600_000) * 600_000 * 4 <= 64 * 1024 * 1024
    assert block_rows(1280) == 1024
    assert block_rows(10**9) == 2


def test_thresholds_use_projections_on_the_mean_of_the_others(stages):
    evidence = fill(Tally(12, 40, 130), stages, [16]).evidence()
    selection = stages[1][1].astype(np.float64)
    others = [(selection.sum(0) - f) / np.linalg.norm(selection.sum(0) - f) for f in selection]
    lowest = min(f @ u for f, u in zip(selection, others, strict=True))
    assert np.abs(evidence.thresholds - lowest).min() < 1e-6


@pytest.mark.parametrize("selection", [1, 2, 4, 5, 30])
def test_a_few_selection_samples_still_certify_a_stable_feature(selection):
    rng = np.random.default_rng(3)
    rows = rng.normal(size=(600, 40)) * 0.05
    rows[:, 0] += 1
    rows = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    tally = Tally(40, selection, 500)
    parts = (rows[:1], rows[1 : 1 + selection], rows[100:])
    evidence = fill(tally, zip(Stage, parts, strict=True), [16]).evidence()
    assert cone_of(evidence, 0.001).bound(0.5)[0] > 0.8


@pytest.mark.parametrize("dimensions", [2, 7, 1280])
def test_identical_features_are_certified_whatever_their_rounding(dimensions):
    rng = np.random.default_rng(4)
    for _ in range(20):
        row = rng.normal(size=(1, dimensions))
        row = (row / np.linalg.norm(row)).astype(np.float32)
        parts = (row, row.repeat(50, 0), row.repeat(300, 0))
        tally = fill(Tally(dimensions, 50, 300), zip(Stage, parts, strict=True), [16])
        assert cone_of(tally.evidence(), 0.001).bound(0.5)[0] > 0.8


def test_the_stated_memory_is_what_a_tally_holds():
    rng = np.random.default_rng(5)
    tally = Tally(1280, 100, 1000)
    rows = unit_rows(rng, 1000, 1280)
    fill(tally, zip(Stage, (rows[:1], rows[:100], rows), strict=True), [16])
    held = sum(v.nbytes for v in vars(tally).values() if isinstance(v, np.ndarray))
    assert held == pytest.approx(tally_bytes(1280, 100, 1000), rel=0.05)


def test_thresholds_do_not_depend_on_the_estimation_sample(stages):
    other = [*stages[:2], (Stage.ESTIMATE, stages[2][1][::-1].copy())]
    one = fill(Tally(12, 40, 130), stages, [16]).evidence()
    two = fill(Tally(12, 40, 130), other, [16]).evidence()
    np.testing.assert_array_equal(one.thresholds, two.thresholds)
    np.testing.assert_array_equal(one.embedding, two.embedding)


def test_without_a_certificate_only_the_selection_counts(stages):
    tally = fill(Tally(12, 40, 0), stages[1:2], [16])
    assert tally.complete
    assert np.linalg.norm(tally.embedding) == pytest.approx(1, abs=1e-6)


def test_features_that_cancel_still_give_a_unit_embedding():
    rows = np.array([[1, 0, 0], [-1, 0, 0]], np.float32)
    tally = Tally(3, 2, 0)
    tally.add(Stage.SELECT, rows)
    assert np.linalg.norm(tally.embedding) == 1


def test_estimation_before_selection_is_refused():
    tally = Tally(3, 2, 2)
    with pytest.raises(RuntimeError, match="before the selection"):
        tally.add(Stage.ESTIMATE, np.eye(3, dtype=np.float32))


def test_unfinished_tally_gives_no_evidence():
    with pytest.raises(RuntimeError, match="every planned sample"):
        Tally(3, 2, 2).evidence()
