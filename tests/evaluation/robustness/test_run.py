"""`fcs evaluate robustness` on a tiny random model: the books, not who wins."""

import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from service.config import load_settings
from service.evaluation.robustness.config import AttackConfig, BudgetConfig, DefenceConfig
from service.evaluation.robustness.crafting import Crafter
from service.evaluation.robustness.defences import defences, plain, surrogate
from service.evaluation.robustness.subjects import subjects
from service.models.mapper import Mapper, MapperConfig, shape_for
from service.models.psm import Part, config_of, write_part
from service.models.store import load_model, resolve
from tests.cli.conftest import run_fcs
from tests.models import tiny_folders
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
sweep: [1, 3]
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


def evaluate(ground, out="run", config="small.yaml", workers=1):
    return run_fcs(
        ground / "cache", "evaluate", "robustness", "--config", ground / config,
        "--out", ground / out, "--workers", workers,
    )  # fmt: skip


def write_mapper(folder, model, manifest, gain=0.0):
    """Of token maps of this model, as training leaves one before its first step, or moved."""
    dimensions, grid = shape_for(model.pipeline.encoder)
    module = Mapper(MapperConfig(dimensions, grid, width=8, depth=1, heads=2, embedding=8))
    torch.nn.init.normal_(module.leave.weight, std=gain) if gain else None
    part = Part(
        kind="mapper", config=config_of(module), encoder=manifest.encoder.sha256, sigmas=(0.25,),
        size=model.preprocessing.size, training={},
    )  # fmt: skip
    write_part(folder / "mapper.safetensors", part, module.state_dict())


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

    def told(lines):
        return sorted(json.dumps({**json.loads(line), "seconds": 0}) for line in lines)

    assert told(file.read_text().splitlines()) == told(whole.splitlines())
    assert file.read_text().startswith("".join(lines[:10]))


def test_of_a_sweep_every_smoothed_row_is_shown_at_every_number_of_samples(ground, ended):
    lines = (ground / "run" / "samples.jsonl").read_text().splitlines()
    found = [json.loads(line) for line in lines]
    assert {cell["defence"] for cell in found} == {"FS"}
    assert sorted(cell["samples"] for cell in found) == [1, 1, 1, 3, 3, 3]


def test_the_plots_are_drawn(ground, ended):
    for name in ("curves", "certified", "samples"):
        with Image.open(ground / "run" / f"{name}.png") as picture:
            assert picture.width > 600


@pytest.mark.long
def test_several_workers_come_to_the_same(ground, ended):
    others = evaluate(ground, out="shared", workers=2)
    assert others.returncode == 0, others.stderr

    def told(line):
        return {**json.loads(line), "seconds": 0}

    for name in ("cells.jsonl", "samples.jsonl"):
        one, two = (ground / out / name for out in ("run", "shared"))
        apart = [[told(line) for line in file.read_text().splitlines()] for file in (one, two)]
        assert len(apart[0]) == len(apart[1])
        assert all(cell in apart[1] for cell in apart[0])


def test_a_run_may_grow_by_defences_and_attacks_and_keeps_what_it_has(ground, ended):
    text = (ground / "small.yaml").read_text()
    mapped = ground / "mapper"
    model = load_model(str(ground / "llava"), load_settings())
    write_mapper(mapped, model, resolve(str(ground / "llava"), load_settings()))
    grown = text.replace("{smoothing: FS}]", "{smoothing: FS}, {smoothing: FS+Mapper}]").replace(
        "attacks:",
        f"mappers: {{FS+Mapper: {mapped}}}\nattacks:\n"
        "  - {goal: displacement, steps: 1, defences: [FS+Mapper]}",
    )
    (ground / "grown.yaml").write_text(grown)
    shutil.copytree(ground / "run", ground / "growing")
    before = (ground / "growing" / "cells.jsonl").read_text()
    more = evaluate(ground, out="growing", config="grown.yaml")
    assert more.returncode == 0, more.stderr
    after = (ground / "growing" / "cells.jsonl").read_text()
    assert after.startswith(before)
    added = [json.loads(line) for line in after.removeprefix(before).splitlines()]
    assert {cell["defence"] for cell in added} == {"FS+Mapper"}
    attacks = {(cell["attack"], cell["knows"]) for cell in added}
    assert ("displacement-pgd", "encoder") in attacks
    assert len(added) == 3 * (1 + 3 * 2)
    other = grown.replace("steps: 2", "steps: 3")
    (ground / "grown.yaml").write_text(other)
    refused = evaluate(ground, out="growing", config="grown.yaml")
    assert refused.returncode == 2
    assert "'matching-pgd that knows the encoder' of `attacks`" in refused.stderr


def test_a_black_box_attacker_differentiates_the_surrogates_alone(ground):
    tiny_folders.write("vit", ground / "vit", tiny_folders.LIVELY)
    text = (ground / "small.yaml").read_text()
    head, _, tail = text.partition("attacks:")
    config = (
        head.replace("votes: 10", "votes: 0").replace("sweep: [1, 3]", "sweep: []")
        + f"surrogates: [{ground / 'vit'}]\nattacks:\n"
        + "  - {goal: matching, knows: surrogates, steps: 2}\n"
        + "  - {goal: crops, ensemble: true, steps: 2, defences: [none]}\n"
        + tail[tail.index("budgets:") :]
    )
    (ground / "black.yaml").write_text(config)
    ended = evaluate(ground, out="black", config="black.yaml")
    assert ended.returncode == 0, ended.stderr
    settings = load_settings()
    own, other = (load_model(str(ground / name), settings) for name in ("llava", "vit"))
    found = subjects(ground / "set", 2, 3, own, 10**6, 0).pictures[0]
    budget, attack = BudgetConfig(norm="linf", epsilon=4), AttackConfig(goal="matching", steps=2)
    for seen, same in ((surrogate(other), True), (surrogate(own), False)):
        crafter = Crafter(ground / f"again-{same}", "x", (seen,), None, 0)
        made = crafter.craft(found, attack, budget)
        kept = (
            ground / "black" / "pictures" / "surrogates-matching-pgd-linf-4" / f"{found.name}.png"
        )
        with Image.open(kept) as picture:
            assert np.array_equal(np.asarray(picture).transpose(2, 0, 1), made) is same
    folders = {path.parent.name for path in (ground / "black" / "pictures").rglob("*.png")}
    assert folders == {
        f"{name}-{size}"
        for name in ("surrogates-matching-pgd", "plain-original-crops-ensemble-pgd")
        for size in ("l2-0.1", "linf-4")
    }
    told = [
        json.loads(line) for line in (ground / "black" / "cells.jsonl").read_text().splitlines()
    ]
    assert {cell["knows"] for cell in told} == {"none", "encoder", "surrogates"}


def test_the_model_itself_is_no_black_box(ground):
    text = (ground / "black.yaml").read_text()
    (ground / "self.yaml").write_text(text.replace(str(ground / "vit"), str(ground / "llava")))
    refused = evaluate(ground, out="self", config="self.yaml")
    assert refused.returncode == 2
    assert "is the model's own encoder" in refused.stderr


def test_an_adaptive_attacker_differentiates_noise_and_mapper(ground):
    settings = load_settings()
    model, manifest = (made(str(ground / "llava"), settings) for made in (load_model, resolve))
    write_mapper(ground / "seen", model, manifest, gain=1.0)
    files = {"FS+Mapper": ground / "seen" / "mapper.safetensors"}
    rows = tuple(DefenceConfig(smoothing=name) for name in ("none", "FS", "FS+Mapper"))
    none, noisy, mapped = defences(model, manifest, rows, {}, files, 0.25, 4)
    levels = torch.full((1, 3, 32, 32), 99.0)
    with torch.no_grad():
        bare = none.seen(3, 0)(levels)
        assert torch.equal(bare, plain(noisy)(levels))
        one, again, other = (row.seen(3, seed)(levels) for row, seed in
                             ((noisy, 0), (noisy, 0), (noisy, 1)))  # fmt: skip
        assert torch.equal(one, again)
        assert not torch.equal(one, other)
        assert not torch.equal(one, mapped.seen(3, 0)(levels))


def test_an_attacked_picture_that_is_none_of_this_one_is_refused(ground, ended):
    shutil.copytree(ground / "run", ground / "mixed")
    file = next((ground / "mixed" / "pictures").rglob("*linf-4/*.png"))
    Image.new("RGB", (32, 32)).save(file)
    (ground / "mixed" / "cells.jsonl").unlink()
    refused = evaluate(ground, out="mixed")
    assert refused.returncode == 2
    assert "is no attack of this picture within linf-4" in refused.stderr


def test_other_pictures_under_the_same_names_are_another_run(ground, ended):
    file = next((ground / "set").rglob("0.png"))
    kept = file.read_bytes()
    Image.new("RGB", (40, 40), (1, 2, 3)).save(file)
    refused = evaluate(ground)
    file.write_bytes(kept)
    assert refused.returncode == 2
    assert "`pictures` of the config is not what it was" in refused.stderr


@pytest.mark.long
def test_workers_end_with_whoever_started_them(ground, tmp_path):
    command = [
        sys.executable, "-m", "service", "evaluate", "robustness", "--config",
        str(ground / "small.yaml"), "--out", str(tmp_path), "--workers", "2",
    ]  # fmt: skip
    parent = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    children = Path(f"/proc/{parent.pid}/task/{parent.pid}/children")
    workers = []
    while len(workers) < 3 and parent.poll() is None:  # two, and what tracks their resources
        workers = children.read_text().split()
        time.sleep(0.02)
    parent.send_signal(signal.SIGKILL)  # which nothing can be done about
    parent.communicate(timeout=60)
    until = time.monotonic() + 30
    while any(alive(worker) for worker in workers) and time.monotonic() < until:
        time.sleep(0.05)
    assert not any(alive(worker) for worker in workers)


def alive(process):
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.long
def test_a_model_with_a_text_tower_alone_is_asked_for_the_class(ground):
    tiny_folders.write_with_text("clip", ground / "clip")
    text = (ground / "small.yaml").read_text()
    small = text.replace(str(ground / "llava"), str(ground / "clip"))
    (ground / "clip.yaml").write_text(small.replace("goal: tokens", "goal: displacement"))
    ended = evaluate(ground, out="zero-shot", config="clip.yaml")
    assert ended.returncode == 0, ended.stderr
    told = [
        json.loads(line) for line in (ground / "zero-shot" / "cells.jsonl").read_text().splitlines()
    ]
    assert {cell["label"] for cell in told} <= {"animal", "plant", "tool"}
    assert {cell["caption"] for cell in told} == {cell["is_own"] for cell in told} == {None}
    assert all(
        cell["certified_radius"] is not None
        for cell in told
        if cell["attack"] == "none" and cell["defence"] == "FS"
    )
    (ground / "clip.yaml").write_text(small)  # whose feature is one vector, and has no tokens
    refused = evaluate(ground, out="no-tokens", config="clip.yaml")
    assert refused.returncode == 2
    assert "attacks after tokens want a token map" in refused.stderr


def test_another_arrangement_of_the_model_wants_another_folder(ground, ended):
    """Its features differ in their last bits, so its cells would be of another function."""
    refused = run_fcs(
        ground / "cache", "evaluate", "robustness", "--config", ground / "small.yaml",
        "--out", ground / "run", FCS_BATCH_SIZE="3",
    )  # fmt: skip
    assert refused.returncode == 2
    assert "the model, or how it is computed, is not what it was" in refused.stderr


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
