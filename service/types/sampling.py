"""How a picture is sampled: what x is, how much noise, how many samples, and for what."""

from dataclasses import dataclass
from enum import IntEnum
from typing import Literal

Resample = Literal["nearest", "lanczos", "bilinear", "bicubic", "box", "hamming"]


class Stage(IntEnum):
    """What a noise sample is for; part of the noise counter, so the numbers never change."""

    CLEAN = 0  # no noise at all: the reference feature f(x)
    SELECT = 1  # the samples whose mean is the embedding
    ESTIMATE = 2  # fresh samples that only certify it


@dataclass(frozen=True, slots=True)
class NoiseLevel:
    """Gaussian noise of standard deviation `sigma` for each pixel and channel, RGB in [0, 1]."""

    sigma: float

    @property
    def sigma_levels(self) -> float:
        """The same standard deviation in 8-bit pixel levels, 0 to 255."""
        return 255.0 * self.sigma


@dataclass(frozen=True, slots=True)
class Preprocessing:
    """How a decoded RGB picture becomes x, the 8-bit tensor in which epsilon is measured.

    Attributes:
        resize: shortest edge in pixels (aspect kept), or exact (height, width), or None.
        crop: centre crop (height, width) in pixels after the resize, or None.
        resample: Pillow filter of the resize.
        mean, std: per-channel normalisation on RGB in [0, 1]. They belong to the pipeline (part of
            the certified function), never to x.
    """

    resize: int | tuple[int, int] | None
    crop: tuple[int, int] | None
    resample: Resample
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of x in pixels."""
        if self.crop is not None:
            return self.crop
        if isinstance(self.resize, tuple):
            return self.resize
        raise ValueError("preprocessing must end in one fixed size: name a crop or an exact resize")


@dataclass(frozen=True, slots=True)
class Target:
    """Sampling may stop as soon as `bound` is certified within the l2 distance `radius`."""

    radius: float
    bound: float


@dataclass(frozen=True, slots=True)
class SamplingPlan:
    """A request's sampling, fully resolved and checked, fixed before any seed is drawn.

    Attributes:
        selection: n0; estimation: n, the ceiling when there is a target.
        target: when to stop early; None spends exactly `estimation`.
        checkpoints: rising numbers of estimation samples at which sampling may stop; the last is
            `estimation`.
        clean: samples without noise: f(x) and, where purifier or mapper stand around it, the bare
            encoder's own feature.
    """

    noise: NoiseLevel
    radii: tuple[float, ...]
    selection: int
    estimation: int
    confidence: float
    certify: bool
    priority: int
    target: Target | None
    checkpoints: tuple[int, ...]
    clean: int = 1

    @property
    def total(self) -> int:
        """Samples of one picture, at most."""
        return self.selection + (self.clean + self.estimation if self.certify else 0)
