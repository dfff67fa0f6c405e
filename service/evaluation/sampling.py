"""Noisy features of one picture from the served function and noise, without the engine."""

import numpy as np
import torch
from numpy.typing import NDArray

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
) -> NDArray[np.float32]:
    """Unit features [count, d] of an image [3, H, W]: samples 0 ... count of a stage.

    Every call is padded to the model's one shape, as the engine's are.
    """
    size = model.batch_size
    found = []
    for first in range(0, count, size):
        rows = min(size, count - first)
        levels = np.zeros((size, *image.shape), np.float32)
        for row in range(rows):
            levels[row] = add_noise(image, noise, seed, stage, first + row)
        found.append(model.pipeline(torch.from_numpy(levels)).cpu().numpy()[:rows])
    return np.concatenate(found)
