"""RGB picture -> x, the 8-bit tensor in which epsilon and sigma are measured."""

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from service.errors import invalid
from service.types import Preprocessing

_FILTERS = {
    name: Image.Resampling[name.upper()]
    for name in Preprocessing.__annotations__["resample"].__args__
}


def check_size(
    size: tuple[int, int], how: Preprocessing, max_pixels: int, param: str | None = None
) -> None:
    """Refuse a picture so long and thin that its resized form would be huge.

    Args:
        size: declared (width, height); either orientation.
        how: the model's preprocessing.
        max_pixels: limit on the resized picture before its crop.
        param: the request field to name in the error.
    """
    if how.resize is None:
        return
    height, width = _target(size, how.resize)
    if height * width > max_pixels:
        raise invalid(
            f"a picture of {size[0]}x{size[1]} is too long and thin: resized for this model it"
            f" would have {height * width} pixels; at most {max_pixels} are accepted",
            param,
        )


def preprocess(image: Image.Image, how: Preprocessing) -> NDArray[np.uint8]:
    """Resize and centre-crop as Hugging Face's own image processors do, ending in 8 bits.

    Args:
        image: RGB, of a size that `check_size` passed.
        how: the model's preprocessing.

    Returns:
        uint8 [3, H, W], RGB.
    """
    if how.resize is not None:
        height, width = _target(image.size, how.resize)
        image = image.resize((width, height), _FILTERS[how.resample])
    if how.crop is not None:
        height, width = how.crop
        top, left = (image.height - height) // 2, (image.width - width) // 2
        image = image.crop((left, top, left + width, top + height))  # outside is black
    return np.ascontiguousarray(np.asarray(image, dtype=np.uint8).transpose(2, 0, 1))  # [3, H, W]


def _target(size: tuple[int, int], resize: int | tuple[int, int]) -> tuple[int, int]:
    """(height, width) after the resize of a picture of (width, height)."""
    if isinstance(resize, tuple):
        return resize
    short, long = sorted(size)
    scaled = int(resize * long / short)
    return (resize, scaled) if size[1] == short else (scaled, resize)
