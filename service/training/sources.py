"""Which pictures are trained on, which are kept for validation, and what to call them all.

Files are divided, and told apart, by what they hold: the same picture in two folders, or under two
names, is on one side.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from service.errors import ConfigurationError
from service.models.packages import PictureSetRecord
from service.pictures.folders import picture_files

_VALIDATION_ONE_IN = 20
_READ = 65_536  # bytes of a file that tell it from others of its length
_FETCHED = "set.json"  # what `fcs data fetch` says of a folder


@dataclass(frozen=True, slots=True)
class Sources:
    """Files to make scenes of; cut-outs are pictures with transparency."""

    photos: tuple[Path, ...]
    cutouts: tuple[Path, ...] = ()

    def part(self, validation: bool) -> "Sources":
        """Those that are, or are not, kept for validation; all photos, where that leaves none."""
        photos = tuple(f for f in self.photos if is_for_validation(f) is validation)
        cutouts = tuple(f for f in self.cutouts if is_for_validation(f) is validation)
        return Sources(photos or self.photos, cutouts)


def is_for_validation(file: Path) -> bool:
    """The rule that divides files: by a digest of what they hold."""
    return int.from_bytes(_fingerprint(file)[:8], "little") % _VALIDATION_ONE_IN == 0


def describe(given: Sequence[Path]) -> dict[str, PictureSetRecord]:
    """What is named on a command line, by its last name: pictures, digest, and where it is from.

    Raises:
        ConfigurationError: a source without pictures, or two of one name.
    """
    found: dict[str, PictureSetRecord] = {}
    for source in given:
        if source.name in found:
            raise ConfigurationError(f"two picture sources are called {source.name!r}: rename one")
        files = picture_files([source])
        whole = hashlib.sha256()
        for digest in sorted(_fingerprint(file) for file in files):
            whole.update(digest)
        told = source / _FETCHED
        fetched = json.loads(told.read_text(encoding="utf-8")) if told.is_file() else {}
        found[source.name] = PictureSetRecord(
            pictures=len(files),
            sha256=whole.hexdigest(),
            package=" ".join(fetched[key] for key in ("package", "version") if key in fetched),
            licence=fetched.get("licence", ""),
        )
    return found


@cache
def _fingerprint(file: Path) -> bytes:
    with file.open("rb") as opened:
        start = opened.read(_READ)
    length = file.stat().st_size.to_bytes(8, "little")
    return hashlib.blake2b(length + start, digest_size=16).digest()
