"""From pictures to a served package by the commands of the README, at a tiny scale."""

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open

from service.config import load_settings
from service.errors import ConfigurationError
from service.models.assembly import Ingredients, assemble
from service.models.packages import read_manifest
from service.models.psm import load_mapper, load_unet, write_part
from service.models.store import load_model
from tests.cli.conftest import run_fcs
from tests.models import tiny_folders

SMALL = ("--widths", "8,12", "--depths", "1,1")
QUICK = ("--batch", 4, "--sigma", 0.25, "--score-every", 4, "--save-every", 2)


@pytest.fixture(scope="module")
def ground(tmp_path_factory):
    """A tiny encoder, photos and cut-outs, and a cache of their own."""
    root = tmp_path_factory.mktemp("train")
    tiny_folders.write("vit", root / "vit", tiny_folders.LIVELY)
    (root / "photos").mkdir()
    (root / "cutouts").mkdir()
    rng = np.random.default_rng(0)
    for i in range(6):
        waves = np.sin(np.arange(60)[:, None, None] / (3 + i) + rng.random((1, 60, 3)) * 6)
        photo = (127 + 120 * waves).astype(np.uint8)
        Image.fromarray(photo).save(root / "photos" / f"{i}.png")
        cutout = rng.integers(0, 255, (30, 30, 4), dtype=np.uint8)
        cutout[..., 3] = 255 * (np.hypot(*np.mgrid[-15:15, -15:15]) < 12)
        Image.fromarray(cutout, "RGBA").save(root / "cutouts" / f"{i}.png")
    return root


def fcs(root, *arguments):
    return run_fcs(root / "cache", *arguments)


def done(ended):
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended


def purifier(root, out, *options):
    return (
        "train", "purifier", root / "photos", "--cutouts", root / "cutouts",
        "--model", root / "vit", "--out", out, *SMALL, *QUICK, *options,
    )  # fmt: skip


@pytest.fixture(scope="module")
def trained(ground):
    """Purifier and mapper, each by its command."""
    done(fcs(ground, *purifier(ground, ground / "p", "--steps", 8)))
    ended = fcs(
        ground, "train", "mapper", ground / "photos", "--model", ground / "vit",
        "--purifier", ground / "p", "--out", ground / "m", "--width", 8, "--steps", 8, *QUICK,
    )  # fmt: skip
    done(ended)
    return ground


def test_a_run_leaves_weights_scores_and_a_curve(trained):
    module, part = load_unet(trained / "p" / "purifier.safetensors")
    assert part.kind == "unet"
    assert part.sigmas == (0.25,)
    assert part.training["steps"] == 8
    assert 0 < part.training["scores"]["cos@0.25"] <= 1
    assert part.training["data"]["photos"]["pictures"] == 6
    assert [told.split()[:3] for told in part.training["commands"]] == [
        ["fcs", "train", "purifier"]
    ]
    assert sum(p.abs().sum() for p in module.head.parameters()) > 0
    with Image.open(trained / "p" / "curve.png") as curve:
        assert curve.size[0] > 300
    _, mapper = load_mapper(trained / "m" / "mapper.safetensors")
    assert mapper.purifier is not None
    assert mapper.encoder == part.encoder


def test_a_killed_run_ends_where_a_whole_one_does(trained):
    """Killed without warning at whatever step it had reached."""
    arguments = [sys.executable, "-m", "service"]
    arguments += map(str, purifier(trained, trained / "killed", "--steps", 8))
    environment = {**os.environ, "FCS_CACHE_DIR": str(trained / "cache")}
    process = subprocess.Popen(
        arguments, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    checkpoint = trained / "killed" / "checkpoint.safetensors"
    until = time.monotonic() + 100
    while not checkpoint.exists() and process.poll() is None and time.monotonic() < until:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    with safe_open(checkpoint, "pt") as opened:
        assert int(opened.metadata()["step"]) > 0
    done(fcs(trained, *purifier(trained, trained / "killed", "--steps", 8)))
    whole, _ = load_unet(trained / "p" / "purifier.safetensors")
    again, _ = load_unet(trained / "killed" / "purifier.safetensors")
    for one, other in zip(whole.parameters(), again.parameters(), strict=True):
        assert torch.equal(one, other)


def test_a_command_without_steps_to_take_leaves_the_file_alone(trained):
    file = trained / "p" / "purifier.safetensors"
    before = file.read_bytes()
    done(fcs(trained, *purifier(trained, trained / "p", "--steps", 8, "--save-every", 3)))
    assert file.read_bytes() == before


@pytest.mark.long
def test_a_run_that_was_stopped_says_so_and_so_does_what_is_made_of_it(trained):
    command = purifier(trained, trained / "short", "--steps", 10**6)
    ended = done(fcs(trained, *command, "--minutes", 0.01))
    _, part = load_unet(trained / "short" / "purifier.safetensors")
    steps = part.training["steps"]
    assert f"stopped at step {steps} of 1000000: the same command goes on" in ended.stdout
    assert part.training["commands"][0].endswith(f"  # stopped at step {steps} of 1000000")
    ended = fcs(
        trained, "models", "add-psm", "short", "--model", trained / "vit",
        "--purifier", trained / "short",
    )  # fmt: skip
    assert f"was stopped at step {steps} of 1000000" in done(ended).stderr


@pytest.fixture(scope="module")
def packaged(trained):
    ended = fcs(
        trained, "models", "add-psm", "tiny-psm", "--model", trained / "vit",
        "--purifier", trained / "p", "--mapper", trained / "m",
    )  # fmt: skip
    assert "serve it: fcs serve --model tiny-psm" in done(ended).stdout
    return trained


def test_the_package_tells_how_it_came_about(packaged):
    psm = read_manifest(packaged / "cache" / "model_store" / "tiny-psm" / "1").psm
    assert [command.split()[:3] for command in psm.commands] == [
        ["fcs", "train", "purifier"],
        ["fcs", "train", "mapper"],
    ]
    assert {name: one.pictures for name, one in psm.data.items()} == {"photos": 6, "cutouts": 6}
    assert psm.scores.keys() == {"unet.cos@0.25", "mapper.cos@0.25"}
    assert not list((packaged / "cache" / "model_store").glob(".adding-*"))


def test_a_package_that_computes_nothing_finite_is_not_added(trained, tmp_path):
    module, part = load_unet(trained / "p" / "purifier.safetensors")
    tensors = {n: torch.full_like(t, float("inf")) for n, t in module.state_dict().items()}
    write_part(tmp_path / "purifier.safetensors", part, tensors)
    ended = fcs(
        trained, "models", "add-psm", "spoilt", "--model", trained / "vit", "--purifier", tmp_path
    )
    assert ended.returncode == 2
    assert "not finite at sigma 0.25" in ended.stderr
    assert not (trained / "cache" / "model_store" / "spoilt").exists()


def test_the_package_is_served_and_certified(packaged):
    options = ("--model", "tiny-psm", "--samples", 20, "--selection-samples", 10, "--json")
    ended = done(fcs(packaged, "certify", packaged / "photos" / "0.png", *options))
    certificate = json.loads(ended.stdout)
    assert certificate["sigma"] == 0.25
    assert certificate["fidelity"]["pipeline"] != certificate["fidelity"]["encoder"]


@pytest.mark.long
def test_the_package_is_evaluated(packaged):
    options = ("--samples", 8, "--certified", 2, "--certified-samples", 20, "--epsilon", 0.1)
    plot = ("--plot", packaged / "stability.png")
    command = ("evaluate", "stability", packaged / "photos", "--model", "tiny-psm")
    ended = done(fcs(packaged, *command, *options, *plot))
    report = json.loads(ended.stdout.splitlines()[-1])
    assert [(row["variant"], row["sigma"]) for row in report["rows"]] == [
        ("none", 0.0),
        ("FS", 0.25),
        ("FS+Mapper", 0.25),
        ("FS+Purifier", 0.25),
        ("FS+PSM", 0.25),
    ]
    assert len({row["cosine"] for row in report["rows"]}) == 5
    assert all(-1 <= row["bounds"][0] <= 1 for row in report["rows"][1:])
    assert (packaged / "stability.png").stat().st_size > 1000


def installed(packaged, change):
    """The package copied under another name, its manifest changed."""
    store = packaged / "cache" / "model_store"
    source, target = store / "tiny-psm" / "1", store / "broken" / "1"
    if target.exists():
        for file in target.iterdir():
            file.unlink()
    target.mkdir(parents=True, exist_ok=True)
    for file in source.iterdir():
        (target / file.name).write_bytes(file.read_bytes())
    manifest = json.loads((target / "manifest.json").read_text())
    manifest["name"] = "broken"
    change(manifest, target)
    (target / "manifest.json").write_text(json.dumps(manifest))
    return load_settings(cache_dir=packaged / "cache", model="broken")


def corrupt(manifest, folder):
    file = folder / "purifier.safetensors"
    whole = bytearray(file.read_bytes())
    whole[-1] ^= 1
    file.write_bytes(whole)


def lose(manifest, folder):
    (folder / "mapper.safetensors").unlink()


def other_sigma(manifest, folder):
    manifest["sigmas"] = [0.25, 0.5]


def other_size(manifest, folder):
    manifest["preprocessing"]["resize"] = [64, 64]


def without_purifier(manifest, folder):
    manifest["psm"]["purifier"] = None


def exchanged(manifest, folder):
    manifest["psm"]["purifier"] = manifest["psm"]["mapper"]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (corrupt, "the manifest says"),
        (lose, "lacks its file mapper.safetensors"),
        (other_sigma, "was not trained for sigma 0.5; it was for 0.25"),
        (other_size, "was trained on pictures of"),
        (without_purifier, "was trained behind the purifier"),
        (exchanged, "holds a mapper, a purifier was expected"),
    ],
)
def test_a_package_that_does_not_fit_is_refused(packaged, change, reason):
    settings = installed(packaged, change)
    with pytest.raises(ConfigurationError, match=reason):
        load_model("broken", settings)


def test_every_part_is_in_the_revision(packaged):
    settings = load_settings(cache_dir=packaged / "cache")
    whole = load_model("tiny-psm", settings)
    bare = load_model(str(packaged / "vit"), settings)
    assert whole.revision != bare.revision
    assert whole.clean_samples == 2
    assert bare.clean_samples == 1

    def without_mapper(manifest, folder):
        manifest["psm"]["mapper"] = None

    fewer = load_model("broken", installed(packaged, without_mapper))
    assert len({whole.revision, bare.revision, fewer.revision}) == 3


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"name": "tiny-psm", "mapper": "m"}, "exists already"),
        ({}, "name a purifier, a mapper, or both"),
        ({"purifier": "p", "sigmas": (1.0,)}, "not trained for sigma 1"),
        ({"purifier": "p", "diffusion": "a/b"}, "name one purifier"),
        ({"mapper": "m"}, "was trained behind the purifier"),
        ({"mapper": "m", "diffusion": "a/b"}, "behind a diffusion model yet"),
        ({"diffusion": "nowhere"}, "no diffusion model 'nowhere'"),
        ({"mapper": "p"}, "cannot read"),
    ],
)
def test_a_package_that_cannot_be_made_is_refused(packaged, fields, reason):
    settings = load_settings(cache_dir=packaged / "cache", model=str(packaged / "vit"))
    given = {"name": "x", "purifier": None, "diffusion": None, "mapper": None, "sigmas": ()}
    given |= {"transferred": False, **fields}
    for part in ("purifier", "mapper"):
        given[part] = given[part] and packaged / given[part]
    with pytest.raises(ConfigurationError, match=reason):
        assemble(settings, Ingredients(**given), packaged / "cache" / "model_store")


def test_a_diffusion_model_is_a_purifier_too(packaged):
    from diffusers import DDPMScheduler

    from tests.models.test_diffusion import written

    folder = written(packaged / "ddpm", DDPMScheduler())
    settings = load_settings(cache_dir=packaged / "cache", model=str(packaged / "vit"))
    given = Ingredients("tiny-ddpm", None, str(folder), None, (0.25, 0.5), False)
    assemble(settings, given, packaged / "cache" / "model_store")
    model = load_model("tiny-ddpm", settings)
    assert model.sigmas == (0.25, 0.5)
    levels = torch.rand(2, 3, *model.preprocessing.size) * 255
    features = model.pipeline(levels, torch.tensor([0.25, 0.5]))
    assert (features.norm(dim=1) - 1).abs().max() < 1e-6
    DDPMScheduler(prediction_type="sample").save_pretrained(folder / "scheduler")
    with pytest.raises(ConfigurationError, match="the manifest says"):
        load_model("tiny-ddpm", settings)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (("--widths", "8,x"), "write whole numbers"),
        (("--seed", "7"), "holds a run with seed = 0"),
        (("--depths", "1"), "2 widths and 1 depths"),
        (("--widths", "8,²"), "write whole numbers"),
    ],
)
def test_a_training_that_cannot_be_is_refused(trained, options, reason):
    ended = fcs(trained, *purifier(trained, trained / "p", "--steps", 8), *options)
    assert ended.returncode == 2
    assert reason in ended.stderr


@pytest.mark.long
def test_another_encoders_purifier_is_taken_only_when_that_is_declared(trained, tmp_path):
    module, part = load_unet(trained / "p" / "purifier.safetensors")
    other = part.model_copy(update={"encoder": "f" * 64})
    write_part(tmp_path / "purifier.safetensors", other, module.state_dict())
    command = (
        "train", "mapper", trained / "photos", "--model", trained / "vit", "--purifier", tmp_path,
        "--out", tmp_path / "m", "--width", 8, "--steps", 1, *QUICK,
    )  # fmt: skip
    refused = fcs(trained, *command)
    assert refused.returncode == 2
    assert "trained for an encoder with digest ffff" in refused.stderr
    done(fcs(trained, *command, "--transferred"))


def test_a_replay_draws_the_noise_of_the_whole_pipeline_again(packaged):
    picture = packaged / "photos" / "1.png"
    (packaged / "receipts").mkdir(exist_ok=True)
    options = ("--model", "tiny-psm", "--samples", 20, "--selection-samples", 10)
    done(fcs(packaged, "certify", picture, *options, "--receipt", packaged / "receipts"))
    receipt = packaged / "receipts" / "1.png.receipt.json"
    replayed = done(fcs(packaged, "verify", receipt, picture))
    assert "every value agrees" in replayed.stdout


@pytest.mark.long
def test_two_processes_divide_the_batches(trained):
    """Each step of both takes twice the scenes, with other noise; only the first writes."""
    command = [
        sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", 2,
        "-m", "service", *purifier(trained, trained / "two", "--steps", 4, "--batch", 2),
    ]  # fmt: skip
    environment = {**os.environ, "FCS_CACHE_DIR": str(trained / "cache"), "OMP_NUM_THREADS": "1"}
    ended = subprocess.run(
        list(map(str, command)),
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    assert ended.stderr.count("step 4: loss") == 1
    module, part = load_unet(trained / "two" / "purifier.safetensors")
    assert part.training["steps"] == 4
    assert part.training["scores"]["step"] == 4
    assert all(parameter.isfinite().all() for parameter in module.parameters())
    assert sum(p.abs().sum() for p in module.head.parameters()) > 0
    alone = fcs(trained, *purifier(trained, trained / "two", "--steps", 6, "--batch", 2))
    assert alone.returncode == 2
    assert "holds a run with processes = 2, this one has 1" in alone.stderr
