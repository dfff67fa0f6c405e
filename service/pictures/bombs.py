"""Small files that would cost much: what a decoder of pictures does not bound by itself.

A picture's size says what its pixels cost. It does not say how many pieces the file is in (each is
a step of the interpreter), nor how often a progressive JPEG passes over all of its pixels.
"""

import io
import re

from service.errors import invalid, too_large

# Encoders write pieces of 4 KiB and more; a read, of which a piece takes three or four, costs
# microseconds.
_READS = 50_000
_SEGMENTS = 1000  # of a JPEG: 64 MiB of metadata
_SCANS = 100  # of a JPEG; encoders write about ten
_PASSES = 20  # over a picture of the largest size, and more over smaller ones
# What can follow 0xFF: neither a stuffed byte, nor a fill byte, nor a restart.
_MARKER = re.compile(rb"\xff([^\x00\xff\xd0-\xd7])")
_SCAN, _END = 0xDA, 0xD9
# With a length of their own; all others are skipped as they stand, so that nothing hides in them.
_LONG = {*range(0xC0, 0xC8), *range(0xC9, 0xD0), *range(0xDA, 0xE0), *range(0xE0, 0xF0), 0xFE}


class Pieces(io.BytesIO):
    """The file as its decoder reads it: in so many pieces and no more.

    Args:
        data: the encoded file.
        param: the request field to name in an error.
    """

    def __init__(self, data: bytes, param: str | None = None) -> None:
        super().__init__(data)
        self._left = _READS
        self._param = param

    def read(self, size: int | None = -1, /) -> bytes:
        """As of any stream.

        Raises:
            ServiceError: invalid, where the file is in too many pieces.
        """
        self._left -= 1
        if self._left < 0:
            raise invalid(
                f"the picture takes more than {_READS} reads: it is in too many small pieces",
                self._param,
            )
        return super().read(size)


def check_segments(data: bytes, param: str | None = None) -> int:
    """Scans of a JPEG; 0 where it is none.

    Raises:
        ServiceError: invalid, for more segments or scans than a picture needs.
    """
    if not data.startswith(b"\xff\xd8\xff"):
        return 0
    scans = segments = at = 0
    while (found := _MARKER.search(data, at)) is not None:
        marker, at = found[1][0], found.end()
        if marker == _END and scans:
            break
        segments += 1
        scans += marker == _SCAN
        if segments > _SEGMENTS or scans > _SCANS:
            raise invalid(
                f"a JPEG of more than {_SEGMENTS} segments or {_SCANS} scans is not accepted", param
            )
        if marker in _LONG:
            at += max(2, int.from_bytes(data[at : at + 2], "big"))
    return scans


def check_work(
    size: tuple[int, int], scans: int, decoder: str, max_pixels: int, param: str | None = None
) -> None:
    """Refuse what would take seconds to decode for want of a bound on its steps.

    Args:
        size: declared (width, height).
        scans: of a JPEG, each of which passes over all pixels.
        decoder: Pillow's name of it.
        max_pixels: largest width x height.
        param: the request field to name in an error.

    Raises:
        ServiceError: too_large or invalid.
    """
    if decoder == "bmp_rle":  # interpreted, a step for each run
        raise invalid("a BMP with run-length encoding is not accepted: save it without", param)
    width, height = size
    if scans * width * height > _PASSES * max_pixels:
        raise too_large(
            f"a JPEG of {width}x{height} pixels in {scans} scans is too much to decode:"
            f" at most {_PASSES * max_pixels // (width * height)} scans are accepted at this size",
            param,
        )
