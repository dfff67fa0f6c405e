"""What is certified of one picture; what it promises is written in docs/certificate.md."""

from dataclasses import dataclass
from typing import Literal

from service.types.sampling import Target

Method = Literal["distributional", "directional", "angular", "none"]


Stopped = Literal["target", "infeasible", "samples"]


@dataclass(frozen=True, slots=True)
class RadiusBound:
    """What holds within an l2 distance `radius` of the picture; -1 wherever nothing is certified.

    Attributes:
        radius: epsilon, l2 over all pixels and channels, RGB in [0, 1].
        bound: lower bound on cos(embedding, F(x')) (docs/certificate.md, "Three angles").
        served_bound: lower bound on cos(embedding(x), embedding(x')), two served Monte-Carlo means.
        paper: lower bound on cos(f(x), F(x')) by arXiv:2601.16200, at an alpha of its own.
        method: which argument gave `bound`.
    """

    radius: float
    bound: float
    served_bound: float
    paper: float
    method: Method


@dataclass(frozen=True, slots=True)
class CertifiedRadius:
    """The largest epsilon at which `bound` is still at least `threshold`; 0 if it never is."""

    threshold: float
    radius: float


@dataclass(frozen=True, slots=True)
class Score:
    """Gaussian robustness score E[(1 + cos(f(x + noise), f(x))) / 2]: sample mean, lower bound."""

    estimate: float
    lower: float


@dataclass(frozen=True, slots=True)
class Fidelity:
    """Cosine of the embedding with the noise-free feature of the pipeline / of the bare encoder."""

    pipeline: float
    encoder: float


@dataclass(frozen=True, slots=True)
class Space:
    """Where epsilon and sigma are measured: the encoder's 8-bit RGB input, as [0, 1] values."""

    height: int
    width: int
    channels: str = "RGB"
    range: tuple[int, int] = (0, 1)
    norm: str = "l2"


@dataclass(frozen=True, slots=True)
class Certificate:
    """One picture's certificate; what it promises is written in docs/certificate.md."""

    bounds: tuple[RadiusBound, ...]
    certified_radius: CertifiedRadius
    gaussian_robustness_score: Score
    fidelity: Fidelity
    sigma: float
    confidence: float
    selection_samples: int
    estimation_samples: int
    target: Target | None
    checkpoints: tuple[int, ...]
    stopped: Stopped
    space: Space
    seed: str
    client_seed: bool
    statement: str
