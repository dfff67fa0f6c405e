"""A picture file -> x, for commands that read pictures themselves."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from service.errors import ServiceError, invalid
from service.pictures.decode import decode
from service.pictures.preprocess import check_size, preprocess
from service.types import Preprocessing


def read_picture(path: Path, how: Preprocessing, max_pixels: int) -> NDArray[np.uint8]:
    """X, uint8 [3, H, W].

    Raises:
        ServiceError: as `decode`, its message naming the file.
    """
    try:
        data = path.read_bytes()
        image = decode(data, max_pixels, None, lambda size: check_size(size, how, max_pixels))
    except OSError as error:
        raise invalid(f"{path}: {error.strerror or error}") from error
    except ServiceError as error:
        raise ServiceError(error.kind, f"{path}: {error.message}") from error
    return preprocess(image, how)
