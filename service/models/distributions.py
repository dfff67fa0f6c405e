"""Files inside installed Python distributions, found and verified without importing anything."""

import hashlib
import importlib.util
from pathlib import Path
from typing import Protocol

from service.errors import ConfigurationError


class DistributionFile(Protocol):
    """Where a file is, as a manifest says it."""

    @property
    def distribution(self) -> str:
        """Name on the package index."""

    @property
    def version(self) -> str:
        """Exact version to install."""

    @property
    def module(self) -> str:
        """Import name of the package that holds the file."""

    @property
    def file(self) -> str:
        """Path inside it."""

    @property
    def sha256(self) -> str:
        """Hex digest of the file."""


def locate(wanted: DistributionFile) -> Path:
    """The file, its digest verified.

    Raises:
        ConfigurationError: not installed, no such file, or another digest.
    """
    # Located, not imported: such packages may import anything.
    spec = importlib.util.find_spec(wanted.module)
    if spec is None or not spec.submodule_search_locations:
        raise ConfigurationError(
            f"{wanted.file} is not installed: pip install {wanted.distribution}=={wanted.version}"
        )
    file = Path(spec.submodule_search_locations[0]) / wanted.file
    if not file.is_file():
        raise ConfigurationError(f"{wanted.distribution} holds no file {wanted.file}")
    if (found := sha256(file)) != wanted.sha256:
        raise ConfigurationError(f"{file} has digest {found}, the manifest says {wanted.sha256}")
    return file


def sha256(file: Path) -> str:
    """Hex digest of a file."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
