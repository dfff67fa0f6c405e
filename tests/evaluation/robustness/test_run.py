"""`fcs evaluate robustness` on a tiny random model: the books, not who wins."""

import json

import numpy as np
import pytest
from PIL import Image

from service.config import load_settings
from service.evaluation.robustness.subjects import subjects
from service.models.store import load_model
from tests.cli.conftest import run_fcs
from tests.models.answerer import tiny_mllms

CONFIG = """
model: {model}
pictures: {pictures}
classes: 2
count: 3
answer_samples: 2
estimation: 48
votes: 10
rescored: 40
defences: [{{smoothing: none}}, {{smoothing: FS}}]
attacks:
  - {{goal: matching, steps: 2}}
  - {{goal: tokens, knows: defence, steps: 1, draws: 2}}
budgets:
  - {{norm: l2, epsilon: 0.1}}
  - {{norm: linf, epsilon: 4}}
"""


@pytest.fixture(scope="module")
def ground(tmp_path_factory):
    root = tmp_path_factory.mktemp("robustness")
    tiny_mllms.write("llava", root / "llava")
    rng = np.random.default_rng(0)
    for i in range(9):
        file = root / "set" / "png" / ("animals", "plants", "tools")[i % 3] / f"{i}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 255, (40, 40, 3), dtype=np.uint8)).save(file)
    text = CONFIG.format(model=root / "llava", pictures=root / "set")
    (root / "small.yaml").write_text(text)
    return root


def evaluate(ground, out="run", config="small.yaml"):
    return run_fcs(
        ground / "cache", "evaluate", "robustness", "--config", ground / config,
        "--out", ground / out,
    )  # fmt: skip


@pytest.fixture(scope="module")
def ended(ground):
    ended = evaluate(ground)
    assert ended.returncode == 0, ended.stderr
    return ended


def cells(ground):
    lines = (ground / "run" / "cells.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def test_every_cell_is_there_once(ground, ended):
    """Clean, and each attack at each size; of no defence there is nothing more to know."""
    found = [(c["defence"], c["attack"], c["norm"], c["picture"]) for c in cells(ground)]
    assert len(found) == len(set(found)) == 3 * (1 + 2) + 3 * (1 + 4)
    told = json.loads(ended.stdout.splitlines()[-1])
    assert all(-1 <= cosine <= 1 for cosine in told["different"].values())
    assert set(told["different"]) == {"none", "FS"}
    lines = told["lines"]
    assert len(lines) == 8
    assert all(line["accuracy"]["class"][3] == 3 for line in lines)


def test_no_attack_is_outside_its_size_and_the_distance_reached_is_told(ground, ended):
    for cell in cells(ground):
        if cell["norm"] == "l2":
            assert 0 < cell["l2"] <= 0.1
        elif cell["norm"] == "linf":
            assert 0.1 < cell["l2"] <= 4 / 255 * (3 * 32 * 32) ** 0.5


def test_certificates_are_judged_where_they_promise_something_and_nowhere_else(ground, ended):
    for cell in cells(ground):
        judged = cell["contradicted"] is not None
        assert judged is (cell["attack"] != "none" and cell["bound"] > -1)
        assert not cell["contradicted"]
        assert (cell["certified_radius"] is not None) is (
            cell["attack"] == "none" and cell["defence"] == "FS"
        )


def test_a_killed_run_goes_on_without_doing_anything_twice(ground, ended):
    file = ground / "run" / "cells.jsonl"
    whole = file.read_text()
    lines = whole.splitlines(keepends=True)
    file.write_text("".join(lines[:10]) + lines[10][:40])  # killed while it wrote
    pictures = sorted((ground / "run" / "pictures").rglob("*.png"))
    before = [(path, path.stat().st_mtime_ns) for path in pictures]
    again = evaluate(ground)
    assert again.returncode == 0, again.stderr
    assert [(path, path.stat().st_mtime_ns) for path in pictures] == before
    kept = [{**json.loads(line), "seconds": 0} for line in whole.splitlines()]
    assert [{**cell, "seconds": 0} for cell in cells(ground)] == kept
    assert file.read_text().startswith("".join(lines[:10]))


def test_another_config_wants_another_folder(ground, ended):
    text = (ground / "small.yaml").read_text()
    (ground / "other.yaml").write_text(text.replace("count: 3", "count: 2"))
    refused = evaluate(ground, config="other.yaml")
    assert refused.returncode == 2
    assert "is of another config" in refused.stderr


def test_another_arrangement_of_the_model_wants_another_folder(ground, ended):
    """Its features differ in their last bits, so its cells would be of another function."""
    refused = run_fcs(
        ground / "cache", "evaluate", "robustness", "--config", ground / "small.yaml",
        "--out", ground / "run", FCS_BATCH_SIZE="3",
    )  # fmt: skip
    assert refused.returncode == 2
    assert "of another config, model or encoder" in refused.stderr


def test_pictures_of_one_name_in_several_folders_are_apart(ground):
    for i, kind in enumerate(("animals", "plants")):
        file = ground / "twins" / "png" / kind / "same.png"
        file.parent.mkdir(parents=True)
        Image.new("RGB", (40, 40), (200 * i, 0, 0)).save(file)
    tool = ground / "twins" / "png" / "tools" / "a.png"
    tool.parent.mkdir()
    Image.new("RGB", (40, 40)).save(tool)
    model = load_model(str(ground / "llava"), load_settings())
    found = subjects(ground / "twins", 2, 2, model, 10**6, 0).pictures
    assert len({one.name for one in found}) == 2
    assert {one.kind for one in found} == {"animal", "plant"}


def test_too_few_kinds_are_told(ground):
    text = (ground / "small.yaml").read_text()
    (ground / "many.yaml").write_text(text.replace("classes: 2", "classes: 5"))
    refused = evaluate(ground, out="many", config="many.yaml")
    assert refused.returncode == 2
    assert "has 3 kinds; 5 + 1 are wanted" in refused.stderr
