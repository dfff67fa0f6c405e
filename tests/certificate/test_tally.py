import numpy as np
import pytest

from service.certificate import blocks as blocks_module
from service.certificate.blocks import block_rows, measure
from service.certificate.certify import cone_of
from service.certificate.evidence import Mark
from service.certificate.tally import Tally, tally_bytes
from service.types import Stage


def unit_rows(rng, count, dimensions):
    rows = rng.normal(size=(count, dimensions)) * 0.3
    rows[:, 0] += 1
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def fill(tally, stages, packing):
    """Feed all stages in pieces of the given sizes, in turn; return the marks."""
    marks = []
    for stage, features in stages:
        start, turn = 0, 0
        while start < len(features):
            size = packing[turn % len(packing)]
            for found in tally.add(stage, features[start : start + size]):
                if isinstance(found, Mark):
                    marks.append(found)
                else:
                    tally.absorb(measure(found))
            start += size
            turn += 1
    return marks


def evidence_of(tally, stages, packing=(16,)):
    return tally.evidence(fill(tally, stages, packing)[-1])


@pytest.fixture
def stages():
    rng = np.random.default_rng(7)
    return [
        (Stage.CLEAN, unit_rows(rng, 1, 12)),
        (Stage.SELECT, unit_rows(rng, 40, 12)),
        (Stage.ESTIMATE, unit_rows(rng, 130, 12)),
    ]


def test_evidence_equals_the_direct_computation(stages):
    tally = Tally(12, 40, 130)
    evidence = evidence_of(tally, stages)
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
    assert tally.fidelity.pipeline == pytest.approx(u @ clean[0], abs=1e-6)
    assert tally.fidelity.encoder == tally.fidelity.pipeline


@pytest.mark.parametrize("packing", [[1], [16], [3, 50, 1], [1000]])
def test_packing_into_batches_changes_nothing_to_the_last_bit(stages, packing):
    alone = evidence_of(Tally(12, 40, 130), stages, [7])
    packed = evidence_of(Tally(12, 40, 130), stages, packing)
    np.testing.assert_array_equal(alone.embedding, packed.embedding)
    np.testing.assert_array_equal(alone.thresholds, packed.thresholds)
    np.testing.assert_array_equal(alone.projections, packed.projections)
    assert alone.mean_norm == packed.mean_norm
    np.testing.assert_array_equal(alone.spectrum, packed.spectrum)


def test_blocks_bound_the_whole_from_above(stages, monkeypatch):
    whole = evidence_of(Tally(12, 40, 130), stages)
    monkeypatch.setattr(blocks_module, "_BLOCK_ROWS", 30)
    blocks = evidence_of(Tally(12, 40, 130), stages)
    exact = np.linalg.eigvalsh(whole.spectrum.T @ whole.spectrum)[-1] / 130
    assert exact <= blocks.spectrum < 2 * exact
    assert blocks.mean_norm == whole.mean_norm


def test_a_block_of_token_maps_stays_within_its_memory():
    assert block_rows(600_000) * 600_000 * 4 <= 64 * 1024 * 1024
    assert block_rows(1280) == 1024
    assert block_rows(10**9) == 2


def test_thresholds_use_projections_on_the_mean_of_the_others(stages):
    evidence = evidence_of(Tally(12, 40, 130), stages)
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
    evidence = evidence_of(tally, zip(Stage, parts, strict=True))
    assert cone_of(evidence, 0.001).bound(0.5)[0] > 0.8


@pytest.mark.parametrize("dimensions", [2, 7, 1280])
def test_identical_features_are_certified_whatever_their_rounding(dimensions):
    rng = np.random.default_rng(4)
    for _ in range(20):
        row = rng.normal(size=(1, dimensions))
        row = (row / np.linalg.norm(row)).astype(np.float32)
        parts = (row, row.repeat(50, 0), row.repeat(300, 0))
        evidence = evidence_of(Tally(dimensions, 50, 300), zip(Stage, parts, strict=True))
        assert cone_of(evidence, 0.001).bound(0.5)[0] > 0.8


def test_the_stated_memory_is_what_a_tally_holds():
    rng = np.random.default_rng(5)
    tally = Tally(1280, 100, 1000)
    rows = unit_rows(rng, 1000, 1280)
    fill(tally, zip(Stage, (rows[:1], rows[:100], rows), strict=True), [16])
    held = sum(v.nbytes for v in vars(tally).values() if isinstance(v, np.ndarray))
    held += sum(rows.nbytes for rows in tally._kept)
    assert held == pytest.approx(tally_bytes(1280, 100, 1000), rel=0.05)


def test_thresholds_do_not_depend_on_the_estimation_sample(stages):
    other = [*stages[:2], (Stage.ESTIMATE, stages[2][1][::-1].copy())]
    one = evidence_of(Tally(12, 40, 130), stages)
    two = evidence_of(Tally(12, 40, 130), other)
    np.testing.assert_array_equal(one.thresholds, two.thresholds)
    np.testing.assert_array_equal(one.embedding, two.embedding)


def test_without_a_certificate_only_the_selection_counts(stages):
    tally = Tally(12, 40, 0)
    assert not tally.selected
    fill(tally, stages[1:2], [16])
    assert tally.selected
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


def test_no_evidence_without_the_clean_feature_or_a_block_not_yet_measured(stages, monkeypatch):
    tally = Tally(12, 40, 130)
    marks = fill(tally, stages[1:2], [16])
    assert marks == []
    with pytest.raises(RuntimeError, match="before the selection"):
        fill(tally, stages[2:], [16])
    monkeypatch.setattr(blocks_module, "_BLOCK_ROWS", 30)
    tally = Tally(12, 40, 130)
    for stage, features in stages:
        found = tally.add(stage, features)
    with pytest.raises(RuntimeError, match="every full block"):
        tally.evidence(found[-1])


@pytest.mark.parametrize("rows", [1024, 30, 25])
def test_evidence_at_a_checkpoint_is_that_of_a_shorter_sample(stages, monkeypatch, rows):
    monkeypatch.setattr(blocks_module, "_BLOCK_ROWS", rows)
    long = Tally(12, 40, 130, (50, 100))
    marks = fill(long, stages, [16])  # all samples are in before any checkpoint is looked at
    assert [mark.samples for mark in marks] == [50, 100, 130]
    for mark, n in zip(marks, (50, 100, 130), strict=True):
        early = long.evidence(mark)
        short = Tally(12, 40, n)
        late = evidence_of(short, [*stages[:2], (Stage.ESTIMATE, stages[2][1][:n])])
        np.testing.assert_array_equal(early.projections, late.projections)
        np.testing.assert_array_equal(early.reference_cosines, late.reference_cosines)
        np.testing.assert_array_equal(early.thresholds, late.thresholds)
        assert early.mean_norm == late.mean_norm
        if isinstance(early.spectrum, float):
            assert early.spectrum == pytest.approx(late.spectrum, rel=1e-9)
        else:
            np.testing.assert_array_equal(early.spectrum, late.spectrum)


def test_the_kept_selection_foretells_from_the_mean_of_the_others(stages):
    tally = Tally(12, 40, 130)
    fill(tally, stages[:2], [16])
    selection = tally.selection()
    rows = stages[1][1].astype(np.float64)
    others = [(rows.sum(0) - f) / np.linalg.norm(rows.sum(0) - f) for f in rows]
    expected = [f @ u for f, u in zip(rows, others, strict=True)]
    np.testing.assert_allclose(selection.projections, expected, atol=1e-6)
    np.testing.assert_allclose(selection.orthogonal @ tally.embedding, 0, atol=1e-6)
    assert selection.samples == 40
