"""Noisy features of one picture from the served function and noise, without the engine."""

import numpy as np
import torch
from numpy.typing import NDArray

from service.models.lanes import Lanes
from service.models.noise import add_noise
from service.models.store import LoadedModel
from service.types import NoiseLevel, Stage


def served_features(
    model: LoadedModel,
    image: NDArray[np.uint8],
    noise: NoiseLevel,
    seed: bytes,
    stage: Stage,
    count: int,
    lanes: Lanes | None = None,
) -> NDArray[np.float32]:
    """Unit features [count, d] of an image [3, H, W]: samples 0 ... count of a stage.

    Every call is padded to the model's one shape, as the engine's are.
    """
    size = model.batch_size

    def call(first: int, end: int) -> NDArray[np.float32]:
        levels = np.zeros((size, *image.shape), np.float32)
        for row in range(end - first):
            levels[row] = add_noise(image, noise, seed, stage, first + row)
        features: NDArray[np.float32] = model.pipeline(torch.from_numpy(levels)).cpu().numpy()
        return features[: end - first]

    if lanes is not None:
        return np.concatenate(lanes.run(call, count, size))
    firsts = range(0, count, size)
    return np.concatenate([call(first, min(first + size, count)) for first in firsts])
