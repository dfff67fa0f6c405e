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


def preprocess(
    image: Image.Image, how: Preprocessing, max_pixels: int, param: str | None = None
) -> NDArray[np.uint8]:
    """Resize and centre-crop as Hugging Face's own image processors do, ending in 8 bits.

    Args:
        image: RGB.
        how: the model's preprocessing.
        max_pixels: limit on the resized picture before its crop (extreme aspect ratios).
        param: the request field to name in an error.

    Returns:
        uint8 [3, H, W], RGB.
    """
    if how.resize is not None:
        height, width = _target(image, how.resize)
        if height * width > max_pixels:
            raise invalid(
                f"a picture of {image.width}x{image.height} is too long and thin: resized for this"
                f" model it would have {height * width} pixels; at most {max_pixels} are accepted",
                param,
            )
        image = image.resize((width, height), _FILTERS[how.resample])
    if how.crop is not None:
        height, width = how.crop
        top, left = (image.height - height) // 2, (image.width - width) // 2
        image = image.crop((left, top, left + width, top + height))  # outside is black
    return np.ascontiguousarray(np.asarray(image, dtype=np.uint8).transpose(2, 0, 1))  # [3, H, W]


def _target(image: Image.Image, resize: int | tuple[int, int]) -> tuple[int, int]:
    if isinstance(resize, tuple):
        return resize
    short, long = sorted((image.width, image.height))
    scaled = int(resize * long / short)
    return (resize, scaled) if image.height == short else (scaled, resize)
