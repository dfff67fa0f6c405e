"""Noisy features of one picture from the served function and noise, without the engine."""

import numpy as np
from numpy.typing import NDArray

from service.models.lanes import Lanes
from service.models.loaded import LoadedModel
from service.models.sampler import Draw, Sampler, make_sampler
from service.types import NoiseLevel, Stage


def served_features(
    model: LoadedModel,
    image: NDArray[np.uint8],
    noise: NoiseLevel,
    seed: bytes,
    stage: Stage,
    count: int,
    lanes: Lanes | None = None,
    sampler: Sampler | None = None,
) -> NDArray[np.float32]:
    """Unit features [count, d] of an image [3, H, W]: samples 0 ... count of a stage.

    Every call is padded to the model's one shape, as the engine's are. A `sampler` of the model may
    be handed in where many pictures follow one another.
    """
    size = model.batch_size
    drawing = sampler or make_sampler(model)

    def call(first: int, end: int) -> NDArray[np.float32]:
        sampled = drawing([Draw(image, noise, seed, stage, first, end - first)])
        for _, error in sampled.spoiled:
            raise error
        return sampled.features

    if lanes is not None:
        return np.concatenate(lanes.run(call, count, size))
    firsts = range(0, count, size)
    return np.concatenate([call(first, min(first + size, count)) for first in firsts])
