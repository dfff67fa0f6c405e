"""Pictures in, robust embeddings out."""

from dataclasses import dataclass
from typing import Literal

from service.types.certificates import Certificate
from service.types.sampling import Target


@dataclass(frozen=True, slots=True)
class EmbedRequest:
    """Pictures to embed, as a transport received them; None means "the default".

    Attributes:
        images: encoded pictures (PNG, JPEG, WebP, ...), one certificate each.
        sigma: noise level, RGB in [0, 1].
        radii: l2 attack sizes epsilon at which bounds are asked, same unit as sigma.
        samples: estimation samples n, or with a target their ceiling;
            selection_samples: n0, whose mean is the embedding.
        confidence: 1 - alpha of each picture's certificate.
        target: when to stop early; None spends exactly `samples`; "default" is the service's own
            target, or None where `samples` is given.
        receipt: sign a receipt of each certificate.
        timeout_s: seconds from arrival until the request fails with a deadline error.
        seed: hex noise seed; refused unless the operator allowed client seeds.
    """

    images: tuple[bytes, ...]
    model: str | None = None
    profile: str | None = None
    certify: bool = True
    sigma: float | None = None
    radii: tuple[float, ...] | None = None
    samples: int | None = None
    selection_samples: int | None = None
    confidence: float | None = None
    target: Target | Literal["default"] | None = "default"
    receipt: bool = False
    priority: int = 0
    timeout_s: float | None = None
    seed: str | None = None


@dataclass(frozen=True, slots=True)
class Timing:
    """Milliseconds: waiting for the device, device time of these samples, statistics, whole."""

    queue_ms: float
    device_ms: float
    statistics_ms: float
    total_ms: float


@dataclass(frozen=True, slots=True)
class Embedding:
    """One picture's answer: unit-norm float32 values, little-endian bytes, and the certificate.

    Attributes:
        receipt: the signed receipt, JSON text, where one was asked for.
    """

    values: bytes
    certificate: Certificate | None
    receipt: str | None = None


@dataclass(frozen=True, slots=True)
class EmbedResult:
    """The answer to an `EmbedRequest`, items in the order of its pictures."""

    model: str
    revision: str
    data: tuple[Embedding, ...]
    timing: Timing
