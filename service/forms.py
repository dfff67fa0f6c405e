"""A certificate as JSON: the form of responses and of receipts, strictly typed."""

from dataclasses import asdict
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from service import types
from service.types import Method, Stopped

Cosine = Annotated[float, Field(ge=-1, le=1)]
Share = Annotated[float, Field(ge=0, le=1)]
Length = Annotated[float, Field(ge=0)]
Pixels = Annotated[int, Field(ge=1, le=4096)]
Count = Annotated[int, Field(ge=1, le=10**9)]


def _printable(text: str) -> str:
    if not text.isprintable():
        raise ValueError("must have no control characters")
    return text


# A receipt is shown on terminals and may be a stranger's: it must not steer them.
Printable = Annotated[str, AfterValidator(_printable)]


class Form(BaseModel):
    """Wrong types, unknown fields, NaN and infinity are refused."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False)


class Target(Form):
    """Stop sampling as soon as `bound` is certified within `radius`."""

    radius: float = Field(description="l2 attack size, >= 0, same unit as sigma")
    bound: float = Field(description="above 0 and below 1")


class RadiusBound(Form):
    """-1 wherever nothing is certified."""

    radius: Length
    bound: Cosine = Field(description="lower bound on cos(embedding, F(x'))")
    served_bound: Cosine = Field(description="lower bound on cos(embedding(x), embedding(x'))")
    paper: Cosine = Field(description="bound of arXiv:2601.16200 about f(x), for comparison")
    method: Method


class CertifiedRadius(Form):
    """Largest radius at which `bound` is still at least the threshold."""

    threshold: Cosine
    radius: Length


class Score(Form):
    """Gaussian robustness score: sample mean and lower confidence bound."""

    estimate: Share
    lower: Share


class Fidelity(Form):
    """Cosine of the embedding with the noise-free feature."""

    pipeline: Cosine
    encoder: Cosine


class Samples(Form):
    """Samples spent."""

    selection: Count
    estimation: Count


class Space(Form):
    """Where radii and sigma are measured."""

    height: Pixels
    width: Pixels
    channels: Printable = Field(max_length=10)
    range: tuple[int, int]
    norm: Printable = Field(max_length=10)


class Certificate(Form):
    """What is certified of one picture; see docs/certificate.md."""

    bounds: list[RadiusBound] = Field(min_length=1)
    certified_radius: CertifiedRadius
    gaussian_robustness_score: Score
    fidelity: Fidelity
    sigma: float = Field(gt=0)
    confidence: float = Field(gt=0, lt=1)
    samples: Samples
    target: Target | None
    checkpoints: list[Count] = Field(
        min_length=1, description="estimation samples at which it might have stopped"
    )
    stopped: Stopped
    space: Space
    seed: str = Field(pattern=r"^[0-9a-f]{32}$")
    client_seed: bool
    statement: Printable = Field(max_length=2000)


def certificate_form(certificate: types.Certificate) -> dict[str, Any]:
    """The fields of `Certificate`, ready for a JSON encoder."""
    fields = asdict(certificate)
    fields["samples"] = {
        "selection": fields.pop("selection_samples"),
        "estimation": fields.pop("estimation_samples"),
    }
    return fields
