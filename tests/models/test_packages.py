import json

import pytest

from service.config import load_settings
from service.errors import ConfigurationError
from service.models import packages

PLAIN = {"resample": "bicubic", "mean": [0, 0, 0], "std": [1, 1, 1]}
DEFAULT = load_settings().model_store / "efficientnet-lite0-160" / "1"


@pytest.fixture
def manifest():
    return packages.read_manifest(DEFAULT)


def rewritten(tmp_path, manifest, **changes):
    folder = tmp_path / manifest.name / manifest.version
    folder.mkdir(parents=True)
    values = {**json.loads((DEFAULT / "manifest.json").read_text()), **changes}
    (folder / "manifest.json").write_text(json.dumps(values))
    return folder


def test_a_written_manifest_is_read_back(tmp_path, manifest):
    folder = packages.write_manifest(tmp_path, manifest)
    assert packages.read_manifest(folder) == manifest
    assert packages.find([tmp_path], manifest.name) == folder
    assert packages.names([tmp_path]) == [manifest.name]


def test_a_package_is_never_changed_in_place(tmp_path, manifest):
    packages.write_manifest(tmp_path, manifest)
    with pytest.raises(ConfigurationError, match="never changed"):
        packages.write_manifest(tmp_path, manifest)


def test_the_newest_version_is_found_unless_one_is_named(tmp_path, manifest):
    for version in ("2", "10", "9"):
        packages.write_manifest(tmp_path, manifest.model_copy(update={"version": version}))
    assert packages.find([tmp_path], manifest.name).name == "10"
    assert packages.find([tmp_path], f"{manifest.name}/9").name == "9"
    assert packages.find([tmp_path], f"{manifest.name}/3") is None


@pytest.mark.parametrize("name", ["../secrets", "", ".", "A B", "no-such-package"])
def test_names_cannot_leave_the_store(tmp_path, name):
    assert packages.find([tmp_path], name) is None


@pytest.mark.parametrize(
    ("changes", "where"),
    [
        ({"sigmas": []}, "sigmas"),
        ({"sigmas": [0.0]}, "sigmas"),
        ({"sigmas": [17.0]}, "sigmas"),
        ({"format": 2}, "format"),
        ({"surprise": 1}, "surprise"),
        ({"batch_size": 0}, "batch_size"),
        ({"version": "2"}, "calls itself"),
        ({"preprocessing": {**PLAIN, "resize": 9}}, "fixed size"),
        ({"preprocessing": {**PLAIN, "crop": [8, 8], "std": [1, 0, 1]}}, "std"),
    ],
    ids=str,
)
def test_a_manifest_that_is_not_of_the_format_is_refused(tmp_path, manifest, changes, where):
    with pytest.raises(ConfigurationError, match=where):
        packages.read_manifest(rewritten(tmp_path, manifest, **changes))


def test_a_manifest_that_is_not_json_is_refused(tmp_path):
    (tmp_path / "manifest.json").write_text("{")
    with pytest.raises(ConfigurationError, match="the file"):
        packages.read_manifest(tmp_path)
