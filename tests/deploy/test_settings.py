"""Every FCS_ name in a file of deployment is a setting, and every setting is documented."""

import re

from service.config import Settings
from tests.deploy.conftest import DEPLOY, REPOSITORY

DOCUMENTED = REPOSITORY / "docs" / "deploy.md"
NO_SETTINGS = {"config", "image", "secrets"}  # the file of settings; two variables of compose


def test_files_of_deployment_name_only_settings():
    files = [
        REPOSITORY / name
        for name in ("Dockerfile", "docker-compose.yml", "docker-compose.secure.yml")
    ]
    files += [file for file in DEPLOY.rglob("*") if file.suffix in {".yaml", ".yml", ".tpl"}]
    known = set(Settings.model_fields) | NO_SETTINGS
    found = {
        name.lower()
        for file in files
        for name in re.findall(r"\bFCS_([A-Z][A-Z_]*[A-Z])\b", file.read_text())
    }
    assert {"host", "probe_port", "tune"} <= found
    assert found - known <= {"serve"}  # in comments


def test_every_setting_is_documented():
    text = DOCUMENTED.read_text()
    assert [name for name in Settings.model_fields if f"`{name}`" not in text] == []
