"""Behaviour of service/models/hub.py."""

import pytest

from service.config import load_settings
from service.errors import ConfigurationError
from service.models.store import resolve


def settings_in(tmp_path, **changes):
    return load_settings(cache_dir=tmp_path / "cache", **changes)


def test_an_unreachable_hub_is_one_clear_error(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ConfigurationError, match="cannot fetch 'nobody/nothing'"):
        resolve("nobody/nothing", settings_in(tmp_path))
