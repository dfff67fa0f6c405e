"""Folders, lists and single files of pictures -> the files, in one order everywhere."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from service.errors import ConfigurationError

SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp"}


def picture_files(sources: Iterable[Path]) -> list[Path]:
    """All pictures below folders, and files as named (a `.txt` lists one path a line); sorted.

    Raises:
        ConfigurationError: a source that does not exist or holds no picture.
    """
    found: set[Path] = set()
    for source in sources:
        if source.is_dir():
            files = {f for f in source.rglob("*") if f.suffix.lower() in SUFFIXES and f.is_file()}
        elif source.suffix == ".txt" and source.is_file():
            lines = source.read_text(encoding="utf-8").splitlines()
            files = {source.parent / line.strip() for line in lines if line.strip()}
        else:
            files = {source}
        if not files:
            raise ConfigurationError(f"{source} holds no pictures")
        if missing := sorted(file for file in files if not file.is_file()):
            raise ConfigurationError(f"{missing[0]} does not exist")
        found |= files
    return sorted(found)


def evenly(files: Sequence[Path], count: int) -> list[Path]:
    """So many of the files, at even distances."""
    if count >= len(files):
        return list(files)
    return [files[i * len(files) // count] for i in range(count)]
