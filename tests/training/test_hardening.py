"""FARE and TeCoA on small encoders: what is minimised, within what, and what comes of it."""

import copy

import pytest
import torch
from torch.nn import functional

from service.config import load_settings
from service.errors import ConfigurationError
from service.models.hardened import harden
from service.models.store import load_model
from service.training.ground import Data, stand_on
from service.training.hardening import Adversary, HardeningTask
from tests.cli.conftest import run_fcs
from tests.models import tiny_folders
from tests.photos import locate

SMALL = Adversary(epsilon=4.0, steps=2)


@pytest.fixture(scope="module")
def lite0():
    """At a quarter of its pictures' size: what counts here is the objective."""
    return load_model("efficientnet-lite0-160", load_settings(dtype="float32")).pipeline


def scenes(count, seed=0):
    waves = torch.rand((count, 3, 8, 8), generator=torch.Generator().manual_seed(seed))
    return (255 * functional.interpolate(waves, (64, 64), mode="bilinear")).to(torch.uint8)


def task(lite0, goal, adversary=SMALL):
    return HardeningTask(goal, lite0, scenes(4, 1), adversary, {})


@pytest.mark.parametrize("goal", ["fare", "tecoa"])
def test_the_adversary_stays_in_its_ball_and_makes_the_loss_larger(lite0, goal):
    made, levels = task(lite0, goal), scenes(4)
    wanted = made._wanted(levels)
    moved = made._attacked(made._twin, levels, wanted, torch.Generator().manual_seed(0))
    assert (moved - levels.float()).abs().max() <= SMALL.epsilon + 1e-4
    assert moved.min() >= 0
    assert moved.max() <= 255
    noise = torch.rand(levels.shape, generator=torch.Generator().manual_seed(1)) * 2 - 1
    random = (levels.float() + SMALL.epsilon * noise.sign()).clamp(0, 255)
    with torch.no_grad():
        attacked, beside = (made._losses(made.module, x, wanted).mean() for x in (moved, random))
    assert attacked > 1.1 * beside


def test_fare_is_the_squared_distance_to_the_original_features_of_the_clean_picture(lite0):
    made, levels = task(lite0, "fare"), scenes(2)
    wanted = made._wanted(levels)
    with torch.no_grad():
        original = lite0.encoder.tokens(lite0.normalised(levels.float()))
        other = lite0.encoder.tokens(lite0.normalised(levels.float() * 0.9))
        expected = (other - original).square().sum(2).mean(1)
        torch.testing.assert_close(
            made._losses(made.module, levels.float() * 0.9, wanted), expected
        )
        assert float(made._losses(made.module, levels.float(), wanted).sum()) == 0


def test_tecoa_keeps_the_originals_own_first_class(lite0):
    made, levels = task(lite0, "tecoa"), scenes(3)
    with torch.no_grad():
        pooled = functional.normalize(lite0.encoder.pooled(lite0.normalised(levels.float())))
    rows = functional.normalize(lite0.encoder.class_rows())
    assert made._wanted(levels).tolist() == (pooled @ rows.T).argmax(1).tolist()


@pytest.mark.parametrize("goal", ["fare", "tecoa"])
def test_a_few_steps_make_the_attacked_loss_smaller(lite0, goal):
    made, levels = task(lite0, goal), scenes(4)
    optimizer = torch.optim.AdamW(made.module.parameters(), 1e-4)
    losses = []
    for _ in range(6):
        optimizer.zero_grad()
        loss = made.loss(made.module, levels, torch.Generator().manual_seed(0))
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.9 * losses[0]
    classes = {"class@clean", "class@4/255"} if goal == "tecoa" else set()
    assert set(made.score(made.module)) == {"score", "cos@clean", "cos@4/255", *classes}


def test_everything_before_the_classifier_is_trained(tmp_path):
    """On the ground that runs stand on, whose encoder has fast ways back for frozen weights."""
    for name in ("coffee.png", "chelsea.png"):
        (tmp_path / name).write_bytes(locate(name).read_bytes())
    ground = stand_on(load_settings(model="efficientnet-lite0-160"), Data((tmp_path,)), (0.25,))
    made = HardeningTask("fare", ground.model.pipeline, scenes(1), SMALL, {})
    made.loss(made.module, scenes(2), torch.Generator().manual_seed(0)).backward()
    still = [name for name, one in made.module.named_parameters() if one.grad is None]
    assert still == ["encoder.classifier.weight", "encoder.classifier.bias"]


def test_an_encoder_without_a_classifier_has_no_tecoa(tmp_path):
    tiny_folders.write("vit", tmp_path / "vit", tiny_folders.LIVELY)
    pipeline = load_model(str(tmp_path / "vit"), load_settings()).pipeline
    with pytest.raises(ConfigurationError, match="wants an encoder with a classifier"):
        HardeningTask("tecoa", pipeline, scenes(1), SMALL, {})


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    root = tmp_path_factory.mktemp("fare")
    tiny_folders.write("vit", root / "vit", tiny_folders.LIVELY)
    (root / "photos").mkdir()
    for name in ("coffee.png", "chelsea.png"):
        (root / "photos" / name).write_bytes(locate(name).read_bytes())
    command = (
        "train", "fare", root / "photos", "--model", root / "vit", "--out", root / "run",
        "--batch", 2, "--attack-steps", 1, "--save-every", 1, "--score-every", 100,
    )  # fmt: skip
    for steps in (1, 2):
        ended = run_fcs(root / "cache", *command, "--steps", steps)
        assert ended.returncode == 0, ended.stderr
    assert "step 1: loss" not in ended.stderr  # it went on from there
    return root


def test_the_weights_of_a_run_go_into_the_encoder_they_are_of(trained):
    model = load_model(str(trained / "vit"), load_settings())
    from service.models.store import resolve

    digest = resolve(str(trained / "vit"), load_settings()).encoder.sha256
    before = copy.deepcopy(model.pipeline.encoder.state_dict())
    made = harden(model.pipeline.encoder, trained / "run", digest)
    changed = [name for name, value in made.state_dict().items() if not value.equal(before[name])]
    assert changed
    assert all(
        value.equal(before[name]) for name, value in model.pipeline.encoder.state_dict().items()
    )
    with pytest.raises(ConfigurationError, match="was trained from an encoder with digest"):
        harden(model.pipeline.encoder, trained / "run", "0" * 64)
