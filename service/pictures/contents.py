"""What picture files hold, by digest: the same whatever their names and places."""

import hashlib
from collections.abc import Iterable
from functools import cache
from pathlib import Path

from service.errors import ConfigurationError


def content_digest(file: Path) -> bytes:
    """Of one file, 16 bytes.

    Raises:
        ConfigurationError: it cannot be read.
    """
    try:
        about = file.stat()
        return _digest(file, about.st_size, about.st_mtime_ns)
    except OSError as error:
        raise ConfigurationError(f"{file} cannot be read: {error.strerror}") from error


@cache
def _digest(file: Path, _size: int, _changed: int) -> bytes:
    return hashlib.blake2b(file.read_bytes(), digest_size=16).digest()


def set_digest(files: Iterable[Path]) -> str:
    """Of all files together, hexadecimal; their order and names do not change it."""
    whole = hashlib.sha256()
    for digest in sorted(content_digest(file) for file in files):
        whole.update(digest)
    return whole.hexdigest()


def distinct(files: Iterable[Path]) -> tuple[Path, ...]:
    """One file of each content, in the order of their digests."""
    found = {content_digest(file): file for file in sorted(files, reverse=True)}
    return tuple(found[digest] for digest in sorted(found))
