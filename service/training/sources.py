"""Which pictures are trained on, which are kept for validation, and what to call them all.

Files are divided, ordered and told apart by what they hold: the same picture in two folders, or
under two names, is one picture.
"""

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from service.models.packages import PictureSetRecord
from service.pictures.contents import content_digest, distinct, set_digest
from service.pictures.folders import picture_files

_log = logging.getLogger(__name__)

_VALIDATION_ONE_IN = 20
_FETCHED = "set.json"  # what `fcs data fetch` says of a folder


@dataclass(frozen=True, slots=True)
class Sources:
    """Files to make scenes of; cut-outs are pictures with transparency."""

    photos: tuple[Path, ...]
    cutouts: tuple[Path, ...] = ()

    @classmethod
    def of(cls, photos: Sequence[Path], cutouts: Sequence[Path] = ()) -> "Sources":
        """Below folders, in lists, and as named; the same whatever they are called.

        Raises:
            ConfigurationError: a source without pictures.
        """
        return cls(distinct(picture_files(photos)), distinct(picture_files(cutouts)))

    def identity(self) -> dict[str, str]:
        """Digests of both kinds."""
        return {"photos": set_digest(self.photos), "cutouts": set_digest(self.cutouts)}

    def part(self, validation: bool) -> "Sources":
        """Those that are, or are not, kept for validation; all photos, where that leaves none."""
        photos = tuple(f for f in self.photos if is_for_validation(f) is validation)
        if not photos and self.photos:
            _log.warning("too few photos to divide: scores are of photos that are trained on")
        cutouts = tuple(f for f in self.cutouts if is_for_validation(f) is validation)
        return Sources(photos or self.photos, cutouts)


def is_for_validation(file: Path) -> bool:
    """The rule that divides files: by a digest of what they hold."""
    return int.from_bytes(content_digest(file)[:8], "little") % _VALIDATION_ONE_IN == 0


def describe(given: Sequence[Path]) -> dict[str, PictureSetRecord]:
    """What is named on a command line: each folder or list by its name, single files together.

    Raises:
        ConfigurationError: a source without pictures.
    """
    found: dict[str, PictureSetRecord] = {}
    whole = {source.resolve() for source in given}
    files = {source for source in whole if source.is_file() and source.suffix != ".txt"}
    for source in sorted(whole - files):
        name = source.name
        while name in found:
            name += "'"
        found[name] = _record(picture_files([source]), _fetched(source))
    if files:
        found["files"] = _record(sorted(files), {})
    return found


def _record(files: Sequence[Path], fetched: Mapping[str, Any]) -> PictureSetRecord:
    digest = set_digest(files)
    as_fetched = fetched.get("contents") == digest
    return PictureSetRecord(
        pictures=len(files),
        sha256=digest,
        package=f"{fetched['package']} {fetched['version']}" if as_fetched else "",
        licence=fetched["licence"] if as_fetched else "",
    )


def _fetched(folder: Path) -> dict[str, Any]:
    """What `fcs data fetch` says of a folder; nothing of any other."""
    try:
        told = json.loads((folder / _FETCHED).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    known = isinstance(told, dict) and told.keys() >= {"package", "version", "licence", "contents"}
    return told if known else {}
