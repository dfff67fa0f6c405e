"""Behaviour of service/models/converted.py."""

import pytest

from service.config import load_settings
from service.errors import ConfigurationError
from service.models.store import load_model

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


def test_a_cache_that_cannot_be_written_is_one_clear_error(tmp_path):
    (tmp_path / "cache").write_text("a file where a folder should be")
    with pytest.raises(ConfigurationError, match=r"cannot be kept in .*: FCS_CACHE_DIR"):
        load_model(DEFAULT, settings_in(tmp_path))
