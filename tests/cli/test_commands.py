"""The `fcs` command as a person runs it."""

import json
import shutil

import pytest
from PIL import Image

from tests.conftest import start_server, stop_server
from tests.models import tiny_folders
from tests.photos import locate
from tests.tiny import picture

FAST = ("--samples", "30", "--selection-samples", "10")


def test_certify_prints_a_table_and_a_sentence(fcs):
    ended = fcs("certify", locate("chelsea.png"), "--samples", "100", "--radius", "0.125")
    assert ended.returncode == 0, ended.stderr
    assert "chelsea.png" in ended.stdout
    assert "directional" in ended.stdout
    assert "With probability at least 0.999" in ended.stdout


def test_certify_json_is_one_line_a_picture(fcs):
    paths = (locate("chelsea.png"), locate("coffee.png"))
    ended = fcs("certify", *paths, *FAST, "--json", "--radius", "0.1", "--radius", "0.2")
    lines = [json.loads(line) for line in ended.stdout.splitlines()]
    assert [line["image"] for line in lines] == [str(path) for path in paths]
    assert [bound["radius"] for bound in lines[0]["bounds"]] == [0.1, 0.2]
    assert lines[0]["estimation_samples"] == 30


def test_certify_draws_the_curve(fcs, tmp_path):
    plot = tmp_path / "curve.png"
    ended = fcs("certify", locate("coffee.png"), *FAST, "--plot", plot, "--json")
    assert ended.returncode == 0, ended.stderr
    with Image.open(plot) as image:
        assert image.width > 400
    shown = json.loads(ended.stdout)
    assert len(shown["bounds"]) == 3
    assert "distance 0.5" not in shown["statement"]


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("--sigma", "0.3"), "allowed are 0.1, 0.25, 0.5, 1"),
        (("--samples", "0"), "1 to 100000"),
        (("--confidence", "1"), "confidence"),
        (("--radius", "-1"), ">= 0"),
        (("--model", "nope"), "no model 'nope'"),
    ],
    ids=str,
)
def test_certify_explains_what_is_wrong(fcs, arguments, reason):
    ended = fcs("certify", locate("coffee.png"), *arguments)
    assert ended.returncode in {1, 2}
    assert reason in ended.stderr
    assert "Traceback" not in ended.stderr


def test_certify_names_the_broken_file(fcs, tmp_path):
    broken = tmp_path / "broken.png"
    broken.write_bytes(picture()[:40])
    ended = fcs("certify", broken)
    assert ended.returncode == 1
    assert str(broken) in ended.stderr
    assert "Traceback" not in ended.stderr


def test_certify_keeps_what_it_has_when_one_file_is_broken(fcs, tmp_path):
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"")
    ended = fcs("certify", broken, locate("coffee.png"), *FAST, "--json")
    assert ended.returncode == 1
    assert str(broken) in ended.stderr
    (line,) = ended.stdout.splitlines()
    assert json.loads(line)["image"] == str(locate("coffee.png"))


@pytest.mark.parametrize("plot", ["absent/p.png", "p.xyz", "."])
def test_certify_refuses_a_bad_plot_before_it_samples(fcs, tmp_path, plot):
    ended = fcs("certify", locate("coffee.png"), "--plot", tmp_path / plot)
    assert ended.returncode == 2
    assert "--plot" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_certify_refuses_a_bad_receipt_folder_before_it_samples(fcs, tmp_path):
    photo = locate("coffee.png")
    twin = tmp_path / "twin" / photo.name
    twin.parent.mkdir()
    twin.write_bytes(photo.read_bytes())
    kept = tmp_path / "coffee.png.receipt.json"
    kept.write_text("precious")
    for folder, images, reason in (
        (tmp_path / "absent", (photo,), "name an existing folder"),
        (kept, (photo,), "name an existing folder"),
        (tmp_path, (photo,), "exists already"),
        (twin.parent, (photo, twin), "two pictures would both write"),
    ):
        ended = fcs("certify", *images, "--receipt", folder)
        assert ended.returncode == 2
        assert reason in ended.stderr
        assert "loading" not in ended.stderr
    assert kept.read_text() == "precious"


def test_models_are_listed_added_shown_and_served(fcs, tmp_path):
    folder = tmp_path / "tiny-vit"
    tiny_folders.write("vit", folder)
    added = fcs("models", "add", folder, "--name", "mine", "--sigma", "0.5")
    assert added.returncode == 0, added.stderr
    listed = fcs("models", "list").stdout
    assert "mine" in listed
    assert "efficientnet-lite0-160" in listed
    shown = json.loads(fcs("models", "show", "mine").stdout)
    assert shown["sigmas"] == [0.5]
    assert shown["preprocessing"]["resize"] == [32, 32]
    used = fcs("certify", locate("coffee.png"), *FAST, "--model", "mine", "--json")
    assert json.loads(used.stdout)["space"]["height"] == 32
    wrong = fcs("models", "show", "mine/2")
    assert "has no version '2'" in wrong.stderr
    again = fcs("models", "add", folder, "--name", "mine")
    assert again.returncode == 2
    assert "exists already" in again.stderr


def test_models_show_of_an_unknown_name_lists_the_known(fcs):
    ended = fcs("models", "show", "nope")
    assert ended.returncode == 2
    assert "known: efficientnet-lite0-160" in ended.stderr


def test_version_and_help_are_quick_to_answer(fcs):
    assert fcs("--version").stdout.strip() == "0.1.0"
    assert "certify" in fcs("--help").stdout


def test_labels_made_of_pictures_are_served(fcs, tmp_path):
    for label, photo in (("cat", "chelsea.png"), ("coffee", "coffee.png")):
        (tmp_path / "photos" / label).mkdir(parents=True)
        shutil.copy(locate(photo), tmp_path / "photos" / label)
    ended = fcs("models", "add-labels", "efficientnet-lite0-160", "desk", tmp_path / "photos")
    assert ended.returncode == 0, ended.stderr
    assert "added label set 'desk' of 2 labels, for sigma 0.25" in ended.stdout
    again = fcs("models", "add-labels", "efficientnet-lite0-160", "desk", tmp_path / "photos")
    assert again.returncode == 2
    assert "has a label set 'desk' already" in again.stderr
    running = start_server(environment={"FCS_CACHE_DIR": str(tmp_path / "cache")})
    try:
        with running.client() as client:
            form = {"label_set": "desk", "samples": 100}
            files = [("inputs", ("a.png", locate("chelsea.png").read_bytes()))]
            item = client.post("/classify", files=files, data=form).json()["data"][0]
    finally:
        stop_server(running)
    assert item["label"] == "cat"
    assert item["certified_radius"] > 0.05


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("no-such-package", "pets"), "no package 'no-such-package'"),
        (("efficientnet-lite0-160", "imagenet"), "already"),
        (("efficientnet-lite0-160", "My Pets"), "must match"),
        (("efficientnet-lite0-160", "pets"), "0 sub-folders"),
        (("efficientnet-lite0-160", "pets", "--sigma", "0.3"), "not a noise level"),
    ],
    ids=str,
)
def test_labels_that_cannot_be_made_have_clear_errors(fcs, tmp_path, arguments, message):
    package, name, *options = arguments
    (tmp_path / "photos").mkdir()
    ended = fcs("models", "add-labels", package, name, tmp_path / "photos", *options)
    assert ended.returncode == 2
    assert message in ended.stderr
    assert "Traceback" not in ended.stderr
