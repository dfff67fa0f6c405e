"""Noise as a function of (seed, stage, index) alone, exact to the last bit when added to a picture.

Gaussian noise of 255·sigma pixel levels is rounded to a grid of 2^-8 levels. x is a whole number of
levels, so x + rounded noise is exact in float32 and equals rounded(x + noise): rounding commutes
with every 8-bit picture and belongs to the smoothed function (docs/certificate.md, "Floating
point"). The generator is numpy's Philox4x64, the seed its key and (stage, index) the upper half
of the counter, so no two samples share a block; its ziggurat draws from 52-bit and, in the tail,
53-bit uniforms (largest value about 13 sigma).
"""

import hashlib

import numpy as np
from numpy.typing import NDArray

from service.types import NoiseLevel, Stage

SEED_BYTES = 16
GRID = 256  # steps of one pixel level
# Noise up to this sigma keeps x + noise below 2^24 grid steps, where float32 is still exact.
MAX_SIGMA = 16.0


def picture_seed(request_seed: bytes, picture: int) -> bytes:
    """Seed of one picture of a request whose client chose the seed: the first has it as given."""
    if picture == 0:
        return request_seed
    message = request_seed + picture.to_bytes(8, "little")
    return hashlib.blake2b(message, digest_size=SEED_BYTES).digest()


def told_sigma(noise: NoiseLevel, stage: Stage, index: int) -> float:
    """What purifier and mapper are told of a sample: its sigma.

    The second of the CLEAN samples is the bare encoder's feature: told 0, both do nothing.
    """
    return 0.0 if stage is Stage.CLEAN and index > 0 else noise.sigma


def add_noise(
    image: NDArray[np.uint8], noise: NoiseLevel, seed: bytes, stage: Stage, index: int
) -> NDArray[np.float32]:
    """X + noise of one sample, in pixel levels.

    Args:
        image: uint8 [3, H, W].
        noise: sigma at most `MAX_SIGMA`.
        seed: `SEED_BYTES` bytes.
        stage: what the sample is for; Stage.CLEAN adds no noise.
        index: which sample of its stage.

    Returns:
        float32 [3, H, W], every value an exact multiple of 1/256 level.
    """
    levels = image.astype(np.float32)
    if stage is Stage.CLEAN:
        return levels
    key = np.frombuffer(seed, dtype="<u8")
    counter = np.array([0, 0, index, int(stage)], dtype=np.uint64)
    generator = np.random.Generator(np.random.Philox(key=key, counter=counter))
    steps = generator.standard_normal(image.shape)
    steps *= noise.sigma_levels * GRID
    np.rint(steps, out=steps)
    steps *= 1.0 / GRID
    levels += steps.astype(np.float32)
    return levels
