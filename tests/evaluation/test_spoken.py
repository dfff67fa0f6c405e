"""`fcs evaluate answers` on a tiny random model: the books, not what it knows."""

import json

import numpy as np
import pytest
from PIL import Image

from service.config import load_settings
from service.errors import ConfigurationError
from service.evaluation.spoken import evaluate
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
