"""`fcs evaluate answers` on a tiny random model: the books, not what it knows."""

import json

import numpy as np
import pytest
from PIL import Image

from service.config import load_settings
from service.errors import ConfigurationError
from service.evaluation.spoken import _chosen, _plain, _questions, _share, evaluate
from service.pictures.meanings import Meaning
from tests.cli.conftest import run_fcs
from tests.models.answerer import tiny_mllms


@pytest.fixture(scope="module")
def ground(tmp_path_factory):
    root = tmp_path_factory.mktemp("spoken")
    tiny_mllms.write("llava", root / "llava")
    rng = np.random.default_rng(0)
    for i in range(6):
        file = root / "set" / "png" / ("animals", "plants", "tools")[i % 3] / f"{i}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 255, (40, 40, 3), dtype=np.uint8)).save(file)
    return root


def test_every_way_of_showing_is_asked_the_same(ground):
    ended = run_fcs(
        ground / "cache", "evaluate", "answers", ground / "set", "--model", ground / "llava",
        "--samples", 1, "--samples", 3, "--limit", 5,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    report = json.loads(ended.stdout.splitlines()[-1])
    assert report["pictures"] == 5
    assert [(r["shown"], r["sigma"], r["samples"]) for r in report["rows"]] == [
        ("none", 0.0, 0),
        ("FS", 0.25, 1),
        ("FS", 0.25, 3),
    ]
    for row in report["rows"]:
        assert {about: told[3] for about, told in row["right"].items()} == {"kind": 5, "yes/no": 10}
        assert all(low <= share <= high for share, low, high, _ in row["right"].values())
        assert -1 <= row["different"] <= 1
        assert row["seconds"] > 0
    assert report["chance"]["yes/no"] == 0.5


def test_what_cannot_be_asked_is_refused(ground):
    with pytest.raises(ConfigurationError, match="has no language to answer in"):
        evaluate(load_settings(), ground / "set", 0.25, (1,), None, 0)
    with pytest.raises(ConfigurationError, match="has no noise level 7"):
        evaluate(load_settings(model=str(ground / "llava")), ground / "set", 7.0, (1,), None, 0)


def test_questions_come_in_pairs_of_yes_and_no():
    shown = [Meaning("animal", "cat"), Meaning("food"), Meaning("tool", "saw")]
    asked = list(_questions(shown, np.random.default_rng(0)))
    closed = [q.answer for q in asked if q.about == "yes/no"]
    assert closed.count("yes") == closed.count("no") == 3
    assert [q.answer for q in asked if q.about == "name"] == ["cat", "saw"]
    assert all(q.text != "Is this food?" for q in asked if q.answer == "no" and q.picture == 1)


def test_kinds_and_names_take_turns(tmp_path):
    known = {tmp_path / f"{i}.png": Meaning("flag", f"n{i % 3}") for i in range(20)}
    known |= {tmp_path / f"cat{i}.png": Meaning("animal", "cat") for i in range(5)}
    chosen = list(_chosen(known, 6, np.random.default_rng(0)).values())
    assert [one.kind for one in chosen] == ["animal", "flag"] * 3
    assert len({one.name for one in chosen if one.kind == "flag"}) == 3


@pytest.mark.parametrize(
    ("said", "plain"),
    [("A cat.", "cat"), ("  An  Animal!", "animal"), ("the the", ""), ("Yes", "yes")],
)
def test_articles_case_and_punctuation_do_not_count(said, plain):
    assert _plain(said) == plain


def test_the_interval_is_that_of_clopper_and_pearson():
    share, low, high, n = _share([True] * 8 + [False] * 2)
    assert (share, n) == (0.8, 10)
    assert (low, high) == pytest.approx((0.4439, 0.9748), abs=1e-4)
    assert _share([False] * 4)[1] == 0.0
    assert _share([True] * 4)[2] == 1.0
