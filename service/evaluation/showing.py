"""The feature of one picture, and what a language is shown of it, without the engine."""

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
class Feature:
    """Unit embedding [d], and the mean norm that noisy features had."""

    embedding: NDArray[np.float32]
    norm: float


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
    """The token map that a language is shown of a picture; the rest is as for `feature_of`."""
    feature = feature_of(model, image, sigma, samples, seed, lanes, sampler)
    return Shown(feature.embedding, answerer.token_map(feature.embedding, feature.norm))


def feature_of(
    model: LoadedModel,
    image: NDArray[np.uint8],
    sigma: float,
    samples: int,
    seed: bytes,
    lanes: Lanes | None = None,
    sampler: Sampler | None = None,
) -> Feature:
    """The mean of a picture's noisy features, at their mean norm.

    Args:
        model: the served function.
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
    return Feature(embedding, float(norms.mean()))
