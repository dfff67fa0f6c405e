"""The Dockerfile as text: linted, its bases arguments, everything copied let through."""

import json

from service.config import Settings
from tests.deploy.conftest import REPOSITORY, run
from tests.deploy.dockerfile import in_context, pairs, read_dockerfile

ARGUMENTS, STAGES = read_dockerfile(REPOSITORY / "Dockerfile")
IGNORE = REPOSITORY / ".dockerignore"


def test_hadolint_finds_nothing():
    done = run("hadolint", "--format", "json", "Dockerfile")
    assert json.loads(done.stdout) == []
    assert done.returncode == 0
    assert "hadolint ignore" not in (REPOSITORY / "Dockerfile").read_text()


def test_hadolint_finds_something_elsewhere(tmp_path):
    file = tmp_path / "Dockerfile"
    file.write_text("FROM debian\nRUN cd /tmp && sudo ls\n")
    assert {"DL3003", "DL3004", "DL3006"} <= {
        finding["code"]
        for finding in json.loads(run("hadolint", "--format", "json", str(file)).stdout)
    }


def test_the_base_is_an_argument_and_cpu_the_default_target():
    assert set(ARGUMENTS) == {"PYTHON"}
    assert "3.11" in ARGUMENTS["PYTHON"]  # what tests/deploy/rootfs.py stands in for
    assert "bookworm" in ARGUMENTS["PYTHON"]
    assert {stage.base for stage in STAGES.values()} == {ARGUMENTS["PYTHON"], "runtime"}
    assert list(STAGES)[-2:] == ["cuda", "cpu"]
    assert pairs(STAGES["cuda"].all("ENV")[0])["FCS_DEVICE"] == "cuda"


def test_everything_copied_is_let_through_and_little_else_is():
    copied = [name for text in STAGES["build"].all("COPY") for name in text.split()[:-1]]
    assert len(copied) == 6
    assert all(in_context(IGNORE, name.removeprefix("./")) for name in copied)
    for name in (
        ".git",
        ".venv/bin/python",
        "tests/tiny.py",
        "service/rest/__pycache__/a.pyc",
        ".env",
    ):
        assert not in_context(IGNORE, name)
    assert in_context(IGNORE, "service/rest/app.py")


def test_the_service_runs_as_a_number_without_root():
    assert STAGES["runtime"].all("USER") == ["10001:10001"]
    assert not any(STAGES[name].all("USER") for name in ("cuda", "cpu"))


def test_the_images_settings_are_settings():
    named = [
        name.removeprefix("FCS_").lower()
        for stage in STAGES.values()
        for text in stage.all("ENV")
        for name in pairs(text)
        if name.startswith("FCS_")
    ]
    assert set(named) <= set(Settings.model_fields)
