"""Encoded bytes -> one RGB picture; every limit is checked on the header, before pixels exist."""

from collections.abc import Callable

import numpy as np
from PIL import (
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    ImageOps,
    JpegImagePlugin,
    PngImagePlugin,
    UnidentifiedImageError,
    WebPImagePlugin,
)

from service.errors import ServiceError, invalid, too_large
from service.pictures.bombs import Pieces, check_segments, check_work

# Decoders with a small surface; TIFF, PSD, EPS and the like stay closed. (Pillow opens MPO, which
# phones write for JPEG, through its JPEG plugin.)
FORMATS = tuple(
    plugin.format
    for plugin in (
        PngImagePlugin.PngImageFile,
        JpegImagePlugin.JpegImageFile,
        WebPImagePlugin.WebPImageFile,
        GifImagePlugin.GifImageFile,
        BmpImagePlugin.BmpImageFile,
    )
)
_GREY_SCALES = {"L;2": 85, "L;4": 17}
_NAMES = "PNG, JPEG, WebP, GIF or BMP"

# Our own limit, from the settings, is checked right after the header is read.
Image.MAX_IMAGE_PIXELS = None


def decode(
    data: bytes,
    max_pixels: int,
    param: str | None = None,
    check: Callable[[tuple[int, int]], None] | None = None,
) -> Image.Image:
    """Decode a picture as a person would see it: upright, over white, its first frame.

    Args:
        data: the encoded file.
        max_pixels: largest width x height; the declared size is checked before decoding.
        param: the request field to name in an error.
        check: a further check of the declared (width, height), before decoding.

    Returns:
        An RGB picture, 8 bits a channel. EXIF orientation is applied, alpha is composed over white,
        16-bit greyscale is scaled to 8 bit, colour profiles are ignored.

    Raises:
        ServiceError: too_large for a declared size over the limit, invalid for anything that is not
            a complete picture of an accepted format, or that is made to cost far more than its
            size (`service.pictures.bombs`).
    """
    try:
        scans = check_segments(data, param)
        with Image.open(Pieces(data, param), formats=FORMATS) as opened:
            _check_size(opened.size, max_pixels, param)
            check_work(opened.size, scans, _decoder(opened), max_pixels, param)
            if check is not None:
                check(opened.size)
            return as_seen(opened)
    except ServiceError:
        raise
    except MemoryError as error:
        raise too_large("the picture needs more memory than there is", param) from error
    except Exception as error:  # a decoder may fail in any way on hostile bytes
        raise invalid(f"not a complete picture: {_reason(error)}; send {_NAMES}", param) from error


def as_seen(opened: Image.Image) -> Image.Image:
    """An opened picture in RGB as a person would see it: upright and over white."""
    _scale_transparency(opened)
    opened.load()
    return _to_rgb(upright(opened))


def upright(image: Image.Image) -> Image.Image:
    """By its EXIF orientation; a picture whose metadata cannot be read is taken as it lies."""
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # metadata is as hostile as pixels, and matters less
        return image


def _decoder(opened: Image.Image) -> str:
    """Pillow's name of what will read the pixels; WebP's says nothing before it does."""
    tiles = getattr(opened, "tile", None)
    return str(tiles[0][0]) if tiles else ""


def _check_size(size: tuple[int, int], max_pixels: int, param: str | None) -> None:
    width, height = size
    if width * height > max_pixels:
        raise too_large(
            f"the picture declares {width}x{height} = {width * height} pixels;"
            f" at most {max_pixels} are accepted",
            param,
        )


def _scale_transparency(image: Image.Image) -> None:
    """Pillow widens 2- and 4-bit greys to 8 bits, but not the grey that is transparent."""
    tiles = getattr(image, "tile", None)
    scale = _GREY_SCALES.get(str(tiles[0][3])) if tiles else None
    if scale and isinstance(image.info.get("transparency"), int):
        image.info["transparency"] *= scale


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):  # 16-bit grey; Pillow's own conversion would clip, not scale
        wide = np.asarray(image).astype(np.uint32)
        narrow = (np.minimum(wide, 65535) * 255 + 32767) // 65535
        if isinstance(image.info.get("transparency"), int):
            narrow = np.where(wide == image.info["transparency"], 255, narrow)
        return Image.fromarray(narrow.astype(np.uint8)).convert("RGB")
    if "A" in image.getbands() or "transparency" in image.info:
        layer = image.convert("RGBA")
        white = Image.new("RGBA", layer.size, "white")
        return Image.alpha_composite(white, layer).convert("RGB")
    return image.convert("RGB")


def _reason(error: Exception) -> str:
    if isinstance(error, UnidentifiedImageError):
        return "the bytes are of no accepted format"
    text = str(error).splitlines()
    return text[0][:200] if text else type(error).__name__
