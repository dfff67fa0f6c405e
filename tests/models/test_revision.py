"""Behaviour of service/models/revision.py."""

from dataclasses import replace

import pytest

from service.config import load_settings
from service.errors import ConfigurationError
from service.models import packages
from service.models import revision as revisions
from service.models.revision import folder_digest, revision
from service.models.store import load_model
from service.types import Arrangement
from tests.models import tiny_folders

DEFAULT = "efficientnet-lite0-160"


def settings_in(tmp_path, **changes):
    return load_settings(cache_dir=tmp_path / "cache", **changes)


def test_the_revision_names_all_the_function_depends_on(tmp_path):
    settings = settings_in(tmp_path)
    one = load_model(DEFAULT, settings_in(tmp_path, dtype="float32")).revision
    two = load_model(DEFAULT, settings_in(tmp_path, dtype="bfloat16")).revision
    assert one != two
    tiny_folders.write("vit", tmp_path / "vit")
    tiny_folders.write("siglip", tmp_path / "siglip")
    found = {load_model(str(tmp_path / n), settings).revision for n in ("vit", "siglip")}
    assert len(found) == 2


def test_all_of_an_arrangement_that_can_change_the_last_bits_is_in_the_revision():
    manifest = packages.read_manifest(load_settings().model_store / DEFAULT / "1")
    own = Arrangement("bfloat16", "channels_last", 8, 2, 1)
    others = [
        replace(own, dtype="float32"),
        replace(own, memory_format="contiguous"),
        replace(own, batch_size=16),
        replace(own, threads=2),
        replace(own, memory_format="contiguous", threads=2),
    ]
    assert len({revision(manifest, "cpu", one) for one in (own, *others)}) == 6
    assert revision(manifest, "cpu", replace(own, lanes=7)) == revision(manifest, "cpu", own)


def test_the_revision_of_the_packages_own_arrangement_is_as_published():
    """Receipts and stored embeddings name it: it changes only with the function."""
    manifest = packages.read_manifest(load_settings().model_store / DEFAULT / "1")
    own = Arrangement("bfloat16", "channels_last", 8, 2, 1)
    assert revision(manifest, "cpu", own).startswith("sha256:fc2f7d7d5d20")


def test_the_noise_that_a_device_makes_is_in_its_revision(monkeypatch):
    manifest = packages.read_manifest(load_settings().model_store / DEFAULT / "1")
    own = Arrangement("bfloat16", "channels_last", 8, 2, 1)
    found = {device: revision(manifest, device, own) for device in ("cpu", "cuda")}
    monkeypatch.setattr(revisions, "NOISE", "another")
    assert revision(manifest, "cuda", own) not in found.values()
    assert revision(manifest, "cpu", own) == found["cpu"]


def folder_of(root, **files):
    root.mkdir()
    for name, text in {"config.json": "{}", "a.safetensors": "a", "b.safetensors": "b"}.items():
        (root / name).write_text(text)
    for name, text in files.items():
        (root / f"{name}.safetensors.index.json").write_text(text)
    return root


def test_which_file_a_weight_comes_from_is_in_the_digest_of_a_folder(tmp_path):
    plain = folder_digest(folder_of(tmp_path / "plain"))
    one = folder_of(tmp_path / "one", model='{"weight_map": {"w": "a.safetensors"}}')
    other = folder_of(tmp_path / "other", model='{"weight_map": {"w": "b.safetensors"}}')
    assert len({plain, folder_digest(one), folder_digest(other)}) == 3


@pytest.mark.parametrize(
    ("index", "reason"),
    [
        ('{"weight_map": {"w": "../c.safetensors"}}', "not beside it"),
        ("[1]", "no index of weights"),
        ("{", "no index of weights"),
    ],
)
def test_an_index_of_files_elsewhere_is_refused(tmp_path, index, reason):
    with pytest.raises(ConfigurationError, match=reason):
        folder_digest(folder_of(tmp_path / "f", model=index))
