"""Pictures to send: files, or some that are made here, so that nothing has to be downloaded."""

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from service.errors import ConfigurationError

# (format, width, height)
_MADE = (("PNG", 240, 180), ("JPEG", 640, 480), ("PNG", 160, 160), ("JPEG", 512, 512))


def load_pictures(paths: Sequence[Path]) -> list[bytes]:
    """The files as they are; without any, four pictures of gradients and noise.

    Raises:
        ConfigurationError: a file that cannot be read.
    """
    if not paths:
        return [_made(seed, *form) for seed, form in enumerate(_MADE)]
    try:
        return [path.read_bytes() for path in paths]
    except OSError as error:
        raise ConfigurationError(f"{error.filename}: {error.strerror}") from error


def _made(seed: int, form: str, width: int, height: int) -> bytes:
    generator = np.random.default_rng(seed)
    down, across = np.mgrid[0 : 1 : height * 1j, 0 : 1 : width * 1j]
    slopes = generator.uniform(-120, 120, (2, 3))
    levels = 128 + down[..., None] * slopes[0] + across[..., None] * slopes[1]
    levels += generator.normal(0, 6, levels.shape)
    stream = io.BytesIO()
    Image.fromarray(np.clip(levels, 0, 255).astype(np.uint8)).save(stream, form)
    return stream.getvalue()
