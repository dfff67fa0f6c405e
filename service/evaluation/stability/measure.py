"""Features of many pictures through one variant at one noise level, and what they say."""

import hashlib
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from service.certificate.certify import Findings
from service.certificate.labels import Directions, LabelFindings, LabelTally
from service.errors import ConfigurationError
from service.evaluation.certificates import certified
from service.models.features import served_features
from service.models.lanes import Lanes
from service.models.loaded import LoadedModel
from service.models.noise import SEED_BYTES
from service.models.sampler import make_sampler
from service.types import NoiseLevel, SamplingPlan, Stage

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Effort:
    """How much is drawn.

    Attributes:
        samples: noisy features of each picture; their mean is its smoothed feature.
        certified: pictures that are certified as well.
        certified_samples: estimation samples of each.
        epsilons: l2 radii asked for, RGB in [0, 1].
        confidence: of each certificate.
        seed: of the noise.
    """

    samples: int
    certified: int
    certified_samples: int
    epsilons: tuple[float, ...]
    confidence: float
    seed: int

    def __post_init__(self) -> None:
        """Refuse what cannot be measured.

        Raises:
            ConfigurationError: a radius that is negative or no number.
        """
        for epsilon in self.epsilons:
            if not 0 <= epsilon < math.inf:
                raise ConfigurationError(
                    f"epsilon {epsilon:g}: a radius is finite and not negative"
                )

    def noise_seed(self, picture: int) -> bytes:
        """Of one picture; the same in every variant, so that they are compared on one noise."""
        message = f"{self.seed}:{picture}".encode()
        return hashlib.blake2b(message, digest_size=SEED_BYTES).digest()


@dataclass(frozen=True, slots=True)
class Smoothed:
    """Of all pictures through one variant at one noise level.

    Attributes:
        means: F(x), unit norm, [pictures, d].
        clean: f(x) of the variant, without noise but told sigma, [pictures, d].
        cosines: of each picture, the mean of cos(f(x + noise), bare encoder's f(x)).
        ms_per_sample: noise included.
    """

    means: Floats
    clean: Floats
    cosines: Floats
    ms_per_sample: float


@dataclass(frozen=True, slots=True)
class Certified:
    """Of one picture: its certificate, and the certified choices among references and labels."""

    findings: Findings
    neighbour: LabelFindings
    label: LabelFindings | None


def bare_features(
    model: LoadedModel, pictures: Sequence[NDArray[np.uint8]], lanes: Lanes
) -> Floats:
    """Of the encoder alone, without noise, [pictures, d]."""
    silent, seed, sampler = NoiseLevel(0.0), bytes(SEED_BYTES), make_sampler(model)
    rows = [
        served_features(model, x, silent, seed, Stage.CLEAN, 1, lanes, sampler)[0] for x in pictures
    ]
    return np.stack(rows).astype(np.float64)


def smooth(
    model: LoadedModel,
    pictures: Sequence[NDArray[np.uint8]],
    bare: Floats,
    sigma: float,
    effort: Effort,
    lanes: Lanes,
    done: Callable[[], None],
) -> Smoothed:
    """Draw `effort.samples` features of every picture.

    Args:
        model: the variant.
        pictures: uint8 [3, H, W] each.
        bare: the encoder's own features of them.
        sigma: noise level.
        effort: how much.
        lanes: to compute in.
        done: called after each picture.
    """
    noise, sampler = NoiseLevel(sigma), make_sampler(model)
    means, clean, cosines = [], [], []
    seconds = 0.0
    for i, x in enumerate(pictures):
        seed = effort.noise_seed(i)
        began = time.perf_counter()
        features = served_features(
            model, x, noise, seed, Stage.SELECT, effort.samples, lanes, sampler
        )
        seconds += time.perf_counter() - began
        mean = features.astype(np.float64).mean(0)
        means.append(mean / np.linalg.norm(mean))
        cosines.append(float((features @ bare[i]).mean()))
        clean.append(served_features(model, x, noise, seed, Stage.CLEAN, 1, lanes, sampler)[0])
        done()
    drawn = len(pictures) * effort.samples
    return Smoothed(
        np.stack(means),
        np.stack(clean).astype(np.float64),
        np.array(cosines),
        1000 * seconds / drawn,
    )


def certify(
    model: LoadedModel,
    x: NDArray[np.uint8],
    sigma: float,
    effort: Effort,
    picture: int,
    gallery: Directions,
    labels: Directions | None,
    lanes: Lanes,
) -> Certified:
    """One picture's certificate, nearest reference and label, from the same samples.

    Args:
        model: the variant.
        x: uint8 [3, H, W].
        sigma: noise level.
        effort: how much.
        picture: its number.
        gallery: references to choose the nearest of.
        labels: directions of labels, where there are any.
        lanes: to compute in.
    """
    count, noise = effort.certified_samples, NoiseLevel(sigma)
    plan = SamplingPlan(
        noise=noise,
        radii=effort.epsilons,
        selection=effort.samples,
        estimation=count,
        confidence=effort.confidence,
        certify=True,
        priority=0,
        target=None,
        checkpoints=(count,),
    )
    choices = [LabelTally(one) for one in (gallery, labels) if one is not None]
    watches = tuple(choice.add for choice in choices)
    seed, sampler = effort.noise_seed(picture), make_sampler(model)
    _, findings = certified(model, x, plan, seed, lanes, sampler, watches)
    alpha = 1 - effort.confidence
    found = [choice.findings(count, sigma, alpha) for choice in choices]
    return Certified(findings, found[0], found[1] if labels is not None else None)
