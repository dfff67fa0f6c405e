"""What a language is shown of one picture, as the service would show it, without the engine."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from service.models.answerer.answerer import Answerer
from service.models.features import served_samples
from service.models.lanes import Lanes
from service.models.loaded import LoadedModel
from service.models.sampler import Sampler
from service.types import NoiseLevel, Stage


@dataclass(frozen=True, slots=True)
class Shown:
    """Unit embedding [d], and the token map [T, D]."""

    embedding: NDArray[np.float32]
    tokens: Tensor


def shown_of(
    model: LoadedModel,
    answerer: Answerer,
    image: NDArray[np.uint8],
    sigma: float,
    samples: int,
    seed: bytes,
    lanes: Lanes | None = None,
    sampler: Sampler | None = None,
) -> Shown:
    """The mean of a picture's noisy features, at their mean norm.

    Args:
        model: the served function.
        answerer: whose language it is.
        image: x, uint8 [3, H, W].
        sigma: noise level; 0: one feature without noise.
        samples: draws.
        seed: of the noise.
        lanes: to compute in; None: here.
        sampler: of the model; None: a new one.
    """
    stage, count = (Stage.SELECT, samples) if sigma else (Stage.CLEAN, 1)
    noise = NoiseLevel(sigma)
    features, norms = served_samples(model, image, noise, seed, stage, count, lanes, sampler)
    mean = features.astype(np.float64).mean(0)
    embedding = (mean / np.linalg.norm(mean)).astype(np.float32)
    return Shown(embedding, answerer.token_map(embedding, float(norms.mean())))
