"""The JSON bodies. Types are checked here, strictly; ranges are checked in `service.admission`."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from service import types
from service.types import EmbedRequest, Method, Stopped

# Far above any limit of pictures or radii: what it bounds is the cost of refusing nonsense.
MAX_INPUTS = 1000
Number = Annotated[float, Field(allow_inf_nan=False)]


class _Strict(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)


class Target(_Strict):
    """Stop sampling as soon as `bound` is certified within `radius`."""

    radius: Number = Field(description="l2 attack size, >= 0, same unit as sigma")
    bound: Number = Field(description="above 0 and below 1")


class EmbedBody(_Strict):
    """`POST /embed`. Absent fields take the service's defaults (see `GET /info`)."""

    inputs: str | Annotated[list[str], Field(max_length=MAX_INPUTS, fail_fast=True)] = Field(
        description="base64 or data URI of PNG, JPEG, WebP, GIF or BMP; one or a list"
    )
    model: str | None = None
    profile: str | None = None
    certify: bool = True
    sigma: Number | None = Field(None, description="noise level, RGB in [0, 1]")
    radii: Annotated[list[Number], Field(fail_fast=True)] | None = Field(
        None, description="l2 attack sizes, same unit as sigma"
    )
    samples: int | None = Field(
        None, description="estimation samples n; with a target, their ceiling"
    )
    selection_samples: int | None = Field(None, description="n0, whose mean is the embedding")
    confidence: Number | None = Field(None, description="1 - alpha of each picture's certificate")
    target: Target | None = Field(
        None,
        description="when to stop early. null: exactly `samples` are spent. Absent: the service's"
        " own target, or, where `samples` is given, null",
    )
    encoding_format: Literal["float", "base64"] = Field(
        "float", description="base64: little-endian float32"
    )
    priority: int = 0
    timeout_ms: int | None = Field(None, ge=1, le=10**9)
    seed: str | None = Field(None, description="32 hex digits; only where the operator allows it")

    def request(self, images: tuple[bytes, ...]) -> EmbedRequest:
        """The transport-free request."""
        return EmbedRequest(
            images=images,
            model=self.model,
            profile=self.profile,
            certify=self.certify,
            sigma=self.sigma,
            radii=None if self.radii is None else tuple(self.radii),
            samples=self.samples,
            selection_samples=self.selection_samples,
            confidence=self.confidence,
            target=self._target(),
            priority=self.priority,
            timeout_s=None if self.timeout_ms is None else self.timeout_ms / 1000,
            seed=self.seed,
        )

    def _target(self) -> types.Target | Literal["default"] | None:
        if self.target is not None:
            return types.Target(self.target.radius, self.target.bound)
        return None if "target" in self.model_fields_set else "default"


class RadiusBound(_Strict):
    """-1 wherever nothing is certified."""

    radius: float
    bound: float = Field(description="lower bound on cos(embedding, F(x'))")
    served_bound: float = Field(description="lower bound on cos(embedding(x), embedding(x'))")
    paper: float = Field(description="bound of arXiv:2601.16200 about f(x), for comparison")
    method: Method


class CertifiedRadius(_Strict):
    """Largest radius at which `bound` is still at least the threshold."""

    threshold: float
    radius: float


class Score(_Strict):
    """Gaussian robustness score: sample mean and lower confidence bound."""

    estimate: float
    lower: float


class Fidelity(_Strict):
    """Cosine of the embedding with the noise-free feature."""

    pipeline: float
    encoder: float


class Samples(_Strict):
    """Samples spent."""

    selection: int
    estimation: int


class Space(_Strict):
    """Where radii and sigma are measured."""

    height: int
    width: int
    channels: str
    range: tuple[int, int]
    norm: str


class Certificate(_Strict):
    """What is certified of one picture; see docs/certificate.md."""

    bounds: list[RadiusBound]
    certified_radius: CertifiedRadius
    gaussian_robustness_score: Score
    fidelity: Fidelity
    sigma: float
    confidence: float
    samples: Samples
    target: Target | None
    checkpoints: list[int] = Field(description="estimation samples at which it might have stopped")
    stopped: Stopped
    space: Space
    seed: str
    client_seed: bool
    statement: str


class Item(_Strict):
    """One picture's answer."""

    index: int
    embedding: list[float] | str
    certificate: Certificate | None


class Timing(_Strict):
    """Milliseconds."""

    queue_ms: float
    device_ms: float
    statistics_ms: float
    total_ms: float


class EmbedResponse(_Strict):
    """The answer of `POST /embed`, items in the order of the inputs."""

    model: str
    revision: str
    data: list[Item]
    timing: Timing


class Model(_Strict):
    """One loaded model."""

    name: str
    revision: str
    dimensions: int
    sigmas: list[float]
    space: Space
    device: str
    dtype: str
    batch_size: int
    lanes: int


class Defaults(_Strict):
    """What absent request fields become."""

    sigma: float
    radii: list[float]
    samples: int
    selection_samples: int
    confidence: float
    target: Target | None = Field(description="at the default sigma; else radius = sigma/2")
    timeout_ms: int


class InfoResponse(_Strict):
    """The answer of `GET /info`."""

    version: str
    default_model: str
    models: list[Model]
    profiles: list[str]
    limits: dict[str, int]
    defaults: Defaults
    client_seed_allowed: bool


class ErrorBody(_Strict):
    """What was wrong and what is allowed."""

    type: str
    message: str
    param: str | None
    code: int


class ErrorResponse(_Strict):
    """Every failure has this form."""

    error: ErrorBody
