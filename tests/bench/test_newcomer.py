"""`fcs bench newcomer` against a real server."""

import pytest

from tests.bench.test_load import fcs_bench, summary_of


@pytest.mark.long
def test_a_small_request_is_timed_alone_and_beside_large_ones():
    ended = fcs_bench("newcomer", "--repeats", 3, "--neighbours", 2, "--samples", 5000)
    summary = summary_of(ended)
    assert len(summary["lone"]) == len(summary["beside"]) == 3
    assert 0 < summary["batch_ms"] < summary["lone_ms"]
    assert summary["ratio"] == pytest.approx(summary["beside_ms"] / summary["lone_ms"])
    assert summary["allowed_ms"] == pytest.approx(3 * summary["lone_ms"] + summary["batch_ms"])
    assert summary["requests_over"] == sum(ms > summary["allowed_ms"] for ms in summary["beside"])


@pytest.mark.long
def test_large_requests_that_end_too_early_are_told():
    ended = fcs_bench("newcomer", "--repeats", 8, "--neighbours", 1, "--samples", 60)
    assert ended.returncode == 2
    assert "ended too early" in ended.stderr
