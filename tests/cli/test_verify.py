"""`fcs verify` on receipts of real pictures, replayed by the real model."""

import json

import pytest
from PIL import Image

from service.receipts.receipt import sign
from service.receipts.signing import Signer
from tests.cli.conftest import run_fcs
from tests.photos import locate
from tests.receipts.sample import put

FAST = ("--samples", "30", "--selection-samples", "10", "--radius", "0.05", "--radius", "0.1")
PHOTO = locate("coffee.png")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("verify")


@pytest.fixture(scope="module")
def fcs(folder):
    return lambda *arguments, **environment: run_fcs(folder / "cache", *arguments, **environment)


@pytest.fixture(scope="module")
def receipt(folder, fcs):
    ended = fcs("certify", PHOTO, *FAST, "--receipt", folder)
    assert ended.returncode == 0, ended.stderr
    return folder / f"{PHOTO.name}.receipt.json"


def resigned(receipt, path, new, signer):
    """The receipt with one value changed, and signed again."""
    whole = put(json.loads(receipt.read_text()), path, new)
    del whole["signature"], whole["public_key"]
    target = receipt.parent / "resigned.json"
    target.write_text(sign(whole, signer))
    return target


def refused(ended, reason):
    assert ended.returncode == 1
    assert reason in ended.stderr
    assert ended.stderr.strip().splitlines()[-1].startswith("fcs: ")
    assert "Traceback" not in ended.stderr


def test_a_receipt_is_replayed_to_the_last_bit_from_any_file_with_the_same_pixels(
    fcs, receipt, tmp_path
):
    same = tmp_path / "same.bmp"
    with Image.open(PHOTO) as image:
        image.save(same)
    key = json.loads(receipt.read_text())["public_key"]
    ended = fcs("verify", receipt, same, "--public-key", key, "--json")
    assert ended.returncode == 0, ended.stderr
    told = json.loads(ended.stdout)
    assert told["differences"] == told["notes"] == []
    assert (told["key_trusted"], told["replayed"], told["public_key"]) == (True, True, key)


def test_it_is_said_which_key_was_checked(fcs, receipt):
    key = json.loads(receipt.read_text())["public_key"]
    alone = fcs("verify", receipt, "--signature-only")
    assert alone.returncode == 0
    assert "anybody may have made that key" in alone.stdout
    assert "not looked at" in alone.stdout
    trusted = fcs("verify", receipt, "--signature-only", "--public-key", key)
    assert trusted.returncode == 0
    assert "matches the trusted key" in trusted.stdout


def test_another_picture_is_told_before_any_model_is_loaded(fcs, receipt):
    for more in ((), ("--signature-only",)):
        ended = fcs("verify", receipt, locate("astronaut.png"), *more)
        refused(ended, "the picture is not the one of this receipt")
        assert "replaying" not in ended.stderr


def test_a_picture_is_compared_though_nothing_is_replayed(fcs, receipt):
    ended = fcs("verify", receipt, PHOTO, "--signature-only", "--json")
    told = json.loads(ended.stdout)
    assert (told["picture_compared"], told["replayed"]) == (True, False)


def test_a_changed_bound_breaks_the_signature(fcs, receipt, tmp_path):
    changed = tmp_path / "changed.json"
    whole = put(json.loads(receipt.read_text()), ("certificate", "bounds", 0, "bound"), 0.99)
    changed.write_text(json.dumps(whole))
    for more in ((PHOTO,), ("--signature-only",)):
        refused(fcs("verify", changed, *more), "signature does not match")


def test_a_changed_bound_that_another_key_signed_is_caught_by_key_and_by_replay(fcs, receipt):
    key = json.loads(receipt.read_text())["public_key"]
    forged = resigned(receipt, ("certificate", "bounds", 0, "bound"), 0.987654321, Signer())
    assert fcs("verify", forged, "--signature-only").returncode == 0
    refused(fcs("verify", forged, PHOTO, "--public-key", key), "another key signed it")
    ended = fcs("verify", forged, PHOTO)
    assert ended.returncode == 1
    assert "1 values differ" in ended.stdout
    assert "certificate.bounds[0].bound" in ended.stdout
    assert "0.987654321" in ended.stdout
    told = json.loads(fcs("verify", forged, PHOTO, "--json").stdout)
    (difference,) = told["differences"]
    assert (difference["field"], difference["receipt"]) == (
        "certificate.bounds[0].bound",
        0.987654321,
    )


def test_a_seed_that_was_not_the_one_gives_other_values(fcs, receipt):
    forged = resigned(receipt, ("certificate", "seed"), "00" * 16, Signer())
    told = json.loads(fcs("verify", forged, PHOTO, "--json").stdout)
    fields = {difference["field"] for difference in told["differences"]}
    assert {"embedding", "certificate.bounds[0].bound", "certificate.statement"} <= fields


def test_another_platform_is_told_plainly(fcs, receipt):
    claimed = resigned(receipt, ("model", "platform"), "another machine; torch 1", Signer())
    ended = fcs("verify", claimed, PHOTO)
    assert ended.returncode == 0
    assert "the hardware or a library differs: another machine; torch 1" in ended.stdout
    assert "equality to the last bit cannot be expected" in ended.stdout


@pytest.mark.parametrize(
    ("path", "new"),
    [
        (("model", "revision"), "sha256:" + "00" * 32),
        (("model", "batch_size"), 4),
        (("model", "memory_format"), "contiguous"),
        (("model", "threads"), 2),
    ],
    ids=["revision", "batch", "format", "threads"],
)
def test_another_model_is_told_before_it_samples(fcs, receipt, path, new):
    ended = fcs("verify", resigned(receipt, path, new, Signer()), PHOTO)
    refused(ended, "is not the one of this receipt")


def test_a_model_that_is_not_here_is_told(fcs, receipt):
    ended = fcs("verify", resigned(receipt, ("model", "name"), "unheard-of", Signer()), PHOTO)
    assert ended.returncode == 2
    assert "no model 'unheard-of'" in ended.stderr


def test_the_replay_takes_the_arrangement_from_the_receipt(fcs, tmp_path):
    other = {
        "FCS_DTYPE": "float32",
        "FCS_MEMORY_FORMAT": "contiguous",
        "FCS_BATCH_SIZE": "3",
        "FCS_THREADS": "2",
    }
    made = fcs("certify", PHOTO, *FAST, "--receipt", tmp_path, **other)
    assert made.returncode == 0, made.stderr
    saved = tmp_path / f"{PHOTO.name}.receipt.json"
    model = json.loads(saved.read_text())["model"]
    assert (model["memory_format"], model["threads"]) == ("contiguous", 2)
    ended = fcs("verify", saved, PHOTO)
    assert ended.returncode == 0, ended.stderr + ended.stdout
    assert "every value agrees" in ended.stdout


def test_a_target_and_its_checkpoints_are_replayed(fcs, tmp_path):
    made = fcs("certify", PHOTO, "--receipt", tmp_path, FCS_DEFAULT_SAMPLES="120")
    assert made.returncode == 0, made.stderr
    saved = tmp_path / f"{PHOTO.name}.receipt.json"
    certificate = json.loads(saved.read_text())["certificate"]
    assert certificate["target"] == {"radius": 0.125, "bound": 0.9}
    assert certificate["checkpoints"][-1] == 120
    ended = fcs("verify", saved, PHOTO)
    assert ended.returncode == 0, ended.stderr + ended.stdout


def test_what_is_no_receipt_and_what_is_missing_is_explained(fcs, receipt, tmp_path):
    broken = tmp_path / "broken.json"
    broken.write_bytes(receipt.read_bytes()[:100])
    refused(fcs("verify", broken, PHOTO), "not JSON")
    refused(fcs("verify", tmp_path / "absent", PHOTO), "cannot read")
    refused(fcs("verify", receipt, tmp_path / "absent"), "cannot read")
    refused(fcs("verify", receipt, broken), "not a complete picture")
    refused(fcs("verify", receipt, PHOTO, "--public-key", "nonsense"), "neither a public key")
    refused(fcs("verify", receipt, PHOTO, "--item", "0"), "--item picks")
    nameless = fcs("verify", receipt)
    assert nameless.returncode == 2
    assert "--signature-only" in nameless.stderr
