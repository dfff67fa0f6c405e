"""Pictures at hand: as small as training needs them, in memory, and large ones also on disk."""

import hashlib
import logging
import os
import threading
import time
from collections import OrderedDict
from contextlib import suppress
from pathlib import Path

from PIL import Image

from service.errors import ConfigurationError
from service.pictures.decode import as_seen, upright

_log = logging.getLogger(__name__)

_KEPT_BYTES = 4 * 2**30  # in memory
_MOST_PIXELS = 180_000_000  # of a file; decoded, it needs four bytes for each
_OLD_SECONDS = 3600
_READER = 2  # raised whenever the same file would be read otherwise
_LARGE = 16  # times as many pixels as are kept: reading it again would take too long


class Shelf:
    """Pictures with a shorter side of at most `side`; safe from several threads.

    Args:
        side: pixels.
        copies: folder for lossless copies of what was large; None keeps none.
    """

    def __init__(self, side: int, copies: Path | None = None) -> None:
        self._side, self._copies = side, copies
        for left in () if copies is None else copies.glob("*.partial"):
            if _is_old(left):  # of a process that was killed
                left.unlink(missing_ok=True)
        self._lock = threading.Lock()
        self._pictures: OrderedDict[tuple[Path, str], Image.Image] = OrderedDict()
        self._bytes = 0

    def load(self, file: Path, mode: str) -> Image.Image:
        """A picture in a mode, "RGB" or "RGBA", which is the same for a file each time.

        Raises:
            ConfigurationError: no picture that can be read.
        """
        with self._lock:
            if (found := self._pictures.get((file, mode))) is not None:
                self._pictures.move_to_end((file, mode))
                return found
        picture = self._from_disk(file, mode)
        with self._lock:
            if (file, mode) not in self._pictures:
                self._pictures[file, mode] = picture
                self._bytes += _bytes(picture)
            while self._bytes > _KEPT_BYTES and len(self._pictures) > 1:
                self._bytes -= _bytes(self._pictures.popitem(last=False)[1])
        return picture

    def _from_disk(self, file: Path, mode: str) -> Image.Image:
        copies = self._copies
        copy = None if copies is None else copies / self._name(file, mode)
        if copy is not None and copy.is_file():
            try:
                return _read(copy, mode, self._side)[0]
            except ConfigurationError as error:
                _log.warning("made anew: %s", error)
        picture, pixels = _read(file, mode, self._side)
        if copy is not None and pixels > _LARGE * self._side**2:
            self._keep(picture, copy)
        return picture

    def _keep(self, picture: Image.Image, copy: Path) -> None:
        """A copy saves time and nothing else: without room for it, training goes on."""
        partial = copy.with_suffix(f".{os.getpid()}-{threading.get_ident()}.partial")
        try:
            copy.parent.mkdir(parents=True, exist_ok=True)
            with partial.open("wb") as written:
                picture.save(written, "PNG", compress_level=1)
                written.flush()
                os.fsync(written.fileno())
            partial.replace(copy)
        except OSError as error:
            _log.warning("small copies of large pictures are not kept: %s", error)
            self._copies = None
            with suppress(OSError):
                partial.unlink(missing_ok=True)

    def _name(self, file: Path, mode: str) -> str:
        about = file.stat()
        told = f"{file.resolve()}\0{about.st_size}\0{about.st_mtime_ns}"
        told += f"\0{mode}\0{self._side}\0{_READER}"
        return hashlib.blake2b(told.encode(), digest_size=16).hexdigest() + ".png"


def _read(file: Path, mode: str, side: int) -> tuple[Image.Image, int]:
    """The picture, made smaller where it is larger, and how many pixels it had."""
    try:
        with Image.open(file) as opened:
            pixels = opened.width * opened.height
            if pixels > _MOST_PIXELS:
                raise ValueError(f"{pixels} pixels; at most {_MOST_PIXELS} are read")
            opened.draft("RGB", (2 * side, 2 * side))
            picture = as_seen(opened) if mode == "RGB" else upright(opened).convert(mode)
    except Exception as error:  # decoders of damaged files raise whatever they meet
        raise ConfigurationError(f"{file} is no picture that can be read: {error}") from error
    shrink = side / min(picture.size)
    if shrink < 1:
        size = round(picture.width * shrink), round(picture.height * shrink)
        picture = picture.resize(size, Image.Resampling.BICUBIC, reducing_gap=2.0)
    return picture, pixels


def _is_old(file: Path) -> bool:
    try:
        return time.time() - file.stat().st_mtime > _OLD_SECONDS
    except OSError:
        return False


def _bytes(picture: Image.Image) -> int:
    return picture.width * picture.height * len(picture.getbands())
