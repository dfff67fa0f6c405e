"""`fcs evaluate votes` on a tiny random model: the books, not what it knows."""

import json

import numpy as np
import pytest
from PIL import Image

from tests.cli.conftest import run_fcs
from tests.models.answerer import tiny_mllms


@pytest.fixture(scope="module")
def ground(tmp_path_factory):
    root = tmp_path_factory.mktemp("voted")
    tiny_mllms.write("llava", root / "llava")
    rng = np.random.default_rng(0)
    for i in range(6):
        file = root / "set" / "png" / ("animals", "plants", "tools")[i % 3] / f"{i}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 255, (40, 40, 3), dtype=np.uint8)).save(file)
    return root


@pytest.mark.long
def test_certified_accuracy_falls_with_the_radius_from_no_more_than_what_is_right(ground):
    ended = run_fcs(
        ground / "cache", "evaluate", "votes", ground / "set", "--model", ground / "llava",
        "--draws", 20, "--limit", 3, "--radius", 0.0, "--radius", 0.1, "--radius", 5.0,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    report = json.loads(ended.stdout.splitlines()[-1])
    assert (report["pictures"], report["votes"], report["sigma"]) == (3, 20, 0.25)
    right, _, _, asked = report["right"]
    assert asked == 6
    certified = [report["certified"][radius][0] for radius in ("0.0", "0.1", "5.0")]
    assert right >= certified[0] >= certified[1] >= certified[2] == 0
    assert certified[0] <= 1 - report["abstained"]
    assert report["seconds"] > 0
