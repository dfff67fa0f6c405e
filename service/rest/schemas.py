"""The JSON bodies. Types are checked here, strictly; ranges are checked in `service.admission`."""

from abc import ABC, abstractmethod
from dataclasses import replace
from typing import Annotated, Literal

from pydantic import Field

from service import types
from service.forms import Certificate, Form, Space, Target
from service.receipts.receipt import Receipt
from service.types import EmbedRequest, TuningSource

# Far above any limit of pictures or radii: what it bounds is the cost of refusing nonsense.
MAX_INPUTS = 1000
Number = Annotated[float, Field(allow_inf_nan=False)]


class SamplingBody(Form, ABC):
    """Sampling of pictures. Absent fields take the service's defaults (see `GET /info`)."""

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
    priority: int = 0
    timeout_ms: int | None = Field(None, ge=1, le=10**9)
    seed: str | None = Field(None, description="32 hex digits; only where the operator allows it")

    @abstractmethod
    def encoded(self) -> list[tuple[str, str]]:
        """Pictures as they were sent, base64 or data URIs, each with its place for errors."""

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


class PictureBody(SamplingBody):
    """Pictures and their sampling."""

    inputs: str | Annotated[list[str], Field(max_length=MAX_INPUTS, fail_fast=True)] = Field(
        description="base64 or data URI of PNG, JPEG, WebP, GIF or BMP, or a URL where the operator"
        " allows its host; one or a list"
    )

    def encoded(self) -> list[tuple[str, str]]:
        """The inputs, each with its place."""
        given = [self.inputs] if isinstance(self.inputs, str) else self.inputs
        return [(f"inputs[{i}]", text) for i, text in enumerate(given)]


class EmbedBody(PictureBody):
    """`POST /embed`. Absent fields take the service's defaults (see `GET /info`)."""

    encoding_format: Literal["float", "base64"] = Field(
        "float", description="base64: little-endian float32"
    )
    receipt: bool = Field(False, description="sign a receipt of each certificate (`fcs verify`)")

    def request(self, images: tuple[bytes, ...]) -> EmbedRequest:
        """The transport-free request."""
        return replace(super().request(images), receipt=self.receipt)


class Item(Form):
    """One picture's answer."""

    index: int
    embedding: list[float] | str
    certificate: Certificate | None
    receipt: Receipt | None = Field(description="null unless the request asked for it")


class Timing(Form):
    """Milliseconds."""

    queue_ms: float
    device_ms: float
    statistics_ms: float
    total_ms: float


class EmbedResponse(Form):
    """The answer of `POST /embed`, items in the order of the inputs."""

    model: str
    revision: str
    data: list[Item]
    timing: Timing


class LabelSet(Form):
    """A named set of labels for `POST /classify`."""

    name: str
    size: int


class Tuning(Form):
    """Where dtype, memory format, batch size, lanes and threads of a model come from."""

    source: TuningSource = Field(
        description="measured at this start, cached from an earlier one, pinned by the settings,"
        " or the package's own"
    )
    ms_per_sample: float | None = Field(description="measured median, all lanes together")
    note: str = Field(description="why it is the package's own, or was not kept; else empty")


class Model(Form):
    """One loaded model."""

    name: str
    revision: str
    dimensions: int
    sigmas: list[float]
    space: Space
    device: str
    platform: str = Field(description="hardware and libraries: where they agree, replays do")
    dtype: str
    memory_format: str
    batch_size: int = Field(description="samples of one call")
    lanes: int = Field(description="calls side by side on a CPU")
    threads: int = Field(description="inside one call on a CPU")
    tuning: Tuning
    label_sets: list[LabelSet]
    text_labels: bool = Field(description="whether `POST /classify` takes labels as text")
    psm: dict[str, str] = Field(description="digests of purifier and mapper, where there is one")
    answers: bool = Field(description="whether `POST /answer` takes it")


class Defaults(Form):
    """What absent request fields become."""

    sigma: float
    radii: list[float]
    samples: int
    selection_samples: int
    confidence: float
    target: Target | None = Field(description="at the default sigma; its radius follows sigma")
    timeout_ms: int


class InfoResponse(Form):
    """The answer of `GET /info`."""

    version: str
    default_model: str
    models: list[Model]
    devices: list[str] = Field(description="that share the work; a model's `device` is the first")
    profiles: dict[str, Defaults] = Field(description="what `defaults` becomes under each name")
    limits: dict[str, int]
    defaults: Defaults
    client_seed_allowed: bool
    public_key: str | None = Field(description="of the receipts: Ed25519, 64 hex digits")


class ErrorBody(Form):
    """What was wrong and what is allowed."""

    type: str
    message: str
    param: str | None
    code: int


class ErrorResponse(Form):
    """Every failure has this form."""

    error: ErrorBody
