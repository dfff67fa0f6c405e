"""`fcs bench first-token` with a tiny language: the books, not the speed."""

import pytest

from tests.bench.test_load import summary_of
from tests.cli.conftest import run_fcs
from tests.models.answerer import tiny_mllms
from tests.photos import locate


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("first")
    return tiny_mllms.write("llava", root / "llava")


def bench(folder, *more):
    return run_fcs(
        folder.parent / "cache", "bench", "first-token", locate("chelsea.png"),
        "--model", folder, "--rounds", 3, *more,
    )  # fmt: skip


def test_the_parts_and_the_whole_are_told(folder):
    summary = summary_of(bench(folder))
    assert summary["answer_samples"] == 8
    for part in ("served", "unwrapped", "samples"):
        assert summary[part] > 0
    assert summary["ratio"] == pytest.approx(
        summary["served"] / (summary["unwrapped"] + summary["samples"])
    )


def test_more_samples_than_a_call_takes_are_refused(folder):
    ended = bench(folder, "--samples", 5000)
    assert ended.returncode == 2
    assert "one call takes at most" in ended.stderr
