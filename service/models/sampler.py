"""Samples of many pictures -> their unit features, one padded call of the model's one shape.

Noise is drawn where the model runs, in the same lane, straight into the call's input. A picture
that cannot be drawn spoils its own rows only.
"""

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from service.models.loaded import LoadedModel
from service.models.noise import add_noise, told_sigma
from service.types import NoiseLevel, Stage


@dataclass(frozen=True, slots=True)
class Draw:
    """Samples first ... first + count - 1 of one stage of one picture, uint8 [3, H, W]."""

    image: NDArray[np.uint8]
    noise: NoiseLevel
    seed: bytes
    stage: Stage
    first: int
    count: int


@dataclass(frozen=True, slots=True)
class Sampled:
    """What one call gave.

    Attributes:
        features: float32 [samples, d], unit norm, in the order of the draws.
        norms: float32 [samples], which they had before.
        spoiled: index of a draw that could not be made, and why; its rows mean nothing.
        noise_s: seconds that the noise took.
        encode_s: seconds that the pipeline took.
    """

    features: NDArray[np.float32]
    norms: NDArray[np.float32]
    spoiled: tuple[tuple[int, Exception], ...]
    noise_s: float
    encode_s: float


Sampler = Callable[[Sequence[Draw]], Sampled]


class HostSampler:
    """Noise by numpy in host memory, then the pipeline; safe to call in several lanes at once.

    Args:
        model: its batch size is the most samples of a call.
    """

    def __init__(self, model: LoadedModel) -> None:
        self._model = model
        self._own = threading.local()  # each lane's input, written anew in every call

    def __call__(self, draws: Sequence[Draw]) -> Sampled:
        """The features of all samples of the draws, at most one batch."""
        began = time.perf_counter()
        levels, sigmas = self._input()
        sigmas.fill(0)
        row, spoiled = 0, []
        for i, draw in enumerate(draws):
            rows = levels[row : row + draw.count]
            try:
                for k, index in enumerate(range(draw.first, draw.first + draw.count)):
                    rows[k] = add_noise(draw.image, draw.noise, draw.seed, draw.stage, index)
                    sigmas[row + k] = told_sigma(draw.noise, draw.stage, index)
            except Exception as error:
                if is_out_of_memory(error):
                    raise  # no fault of the picture
                rows[:] = 0
                spoiled.append((i, error))
            row += draw.count
        levels[row:] = 0
        drawn = time.perf_counter()
        found = self._model.pipeline.sample(torch.from_numpy(levels), torch.from_numpy(sigmas))
        features, norms = (part.cpu().numpy()[:row] for part in found)
        ended = time.perf_counter()
        return Sampled(features, norms, tuple(spoiled), drawn - began, ended - drawn)

    def _input(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """This thread's: levels float32 [batch, 3, H, W], and sigmas float32 [batch]."""
        if not hasattr(self._own, "input"):
            size = self._model.batch_size
            levels = np.zeros((size, 3, *self._model.preprocessing.size), np.float32)
            self._own.input = levels, np.zeros(size, np.float32)
        found: tuple[NDArray[np.float32], NDArray[np.float32]] = self._own.input
        return found


def make_sampler(model: LoadedModel) -> Sampler:
    """The sampler for the device that a model lives on."""
    if model.pipeline.device.type == "cpu":
        return HostSampler(model)
    from service.models.device_sampler import DeviceSampler

    return DeviceSampler(model)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a call failed for want of memory, on the device or on the host."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    return isinstance(error, RuntimeError) and "allocate memory" in str(error)
