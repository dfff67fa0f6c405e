"""Noisy features of one picture from the served function and noise, without the engine."""

import numpy as np
from numpy.typing import NDArray

from service.models.lanes import Lanes
from service.models.loaded import LoadedModel
from service.models.sampler import Draw, Sampled, Sampler, make_sampler
from service.types import NoiseLevel, Stage

Floats = NDArray[np.float32]


def served_features(
    model: LoadedModel,
    image: NDArray[np.uint8],
    noise: NoiseLevel,
    seed: bytes,
    stage: Stage,
    count: int,
    lanes: Lanes | None = None,
    sampler: Sampler | None = None,
) -> Floats:
    """Unit features [count, d] of an image, as `served_samples` finds them."""
    return served_samples(model, image, noise, seed, stage, count, lanes, sampler)[0]


def served_samples(
    model: LoadedModel,
    image: NDArray[np.uint8],
    noise: NoiseLevel,
    seed: bytes,
    stage: Stage,
    count: int,
    lanes: Lanes | None = None,
    sampler: Sampler | None = None,
) -> tuple[Floats, Floats]:
    """Unit features [count, d] of an image [3, H, W], samples 0 ... count of a stage; their norms.

    Every call is padded to the model's one shape, as the engine's are. A `sampler` of the model may
    be handed in where many pictures follow one another.
    """
    size = model.batch_size
    drawing = sampler or make_sampler(model)

    def call(first: int, end: int) -> Sampled:
        sampled = drawing([Draw(image, noise, seed, stage, first, end - first)])
        for _, error in sampled.spoiled:
            raise error
        return sampled

    if lanes is not None:
        found = lanes.run(call, count, size)
    else:
        found = [call(first, min(first + size, count)) for first in range(0, count, size)]
    return (
        np.concatenate([one.features for one in found]),
        np.concatenate([one.norms for one in found]),
    )
