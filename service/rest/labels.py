"""The JSON bodies of `POST /classify`; types here, the rest in `service.classify`."""

import base64
from array import array
from typing import Annotated

import numpy as np
from pydantic import Discriminator, Field, Tag

from service import types
from service.errors import invalid
from service.forms import Certificate, Form, Target
from service.rest.schemas import Number, PictureBody, Timing

# Above the limits of `service.classify`, which names the field: these bound the cost of nonsense.
_MAX_LABELS = 10_000
_MAX_REFERENCES = 20_000


def _kind(value: object) -> str:
    return "base64" if isinstance(value, str) else "numbers"


class Reference(Form):
    """A vector that a picture may be nearest to."""

    id: str = Field(description="what is answered where this one is nearest; distinct")
    embedding: Annotated[
        Annotated[str, Tag("base64")]
        | Annotated[list[Number], Field(fail_fast=True), Tag("numbers")],
        Discriminator(_kind),
    ] = Field(
        description="the model's dimensions; any norm but zero. Numbers, or base64 of little-endian"
        " float32, as /embed gives it"
    )

    def values(self, place: str) -> "array[float]":
        """As doubles; `place` names the field in errors."""
        if not isinstance(self.embedding, str):
            return array("d", self.embedding)
        try:
            raw = base64.b64decode(self.embedding, validate=True)
            return array("d", np.frombuffer(raw, "<f4").astype(np.float64).tobytes())
        except ValueError as error:
            raise invalid(f"not base64 of little-endian float32: {error}", place) from error


class ClassifyBody(PictureBody):
    """`POST /classify`: exactly one of `labels`, `label_set` and `references`."""

    certify: bool = Field(True, description="false is refused: a label comes with a certificate")
    target: Target | None = Field(
        None, description="when to stop early; absent or null: all `samples` serve the label"
    )
    labels: Annotated[list[str], Field(max_length=_MAX_LABELS, fail_fast=True)] | None = Field(
        None, description="2 to 1000 distinct texts, for a model with a text tower"
    )
    template: str | None = Field(
        None, description='what each text is put into, at its one {}; default "a photo of a {}."'
    )
    label_set: str | None = Field(None, description="a set of the model (see `GET /info`)")
    references: (
        Annotated[list[Reference], Field(max_length=_MAX_REFERENCES, fail_fast=True)] | None
    ) = Field(
        None,
        description="2 to 10,000 vectors, as far as the body limit allows; the label is the id of"
        " the nearest",
    )

    def classification(self, images: tuple[bytes, ...]) -> types.ClassifyRequest:
        """The transport-free request."""
        references = self.references
        return types.ClassifyRequest(
            embed=self.request(images),
            labels=None if self.labels is None else tuple(self.labels),
            template=self.template,
            label_set=self.label_set,
            references=None
            if references is None
            else tuple(
                types.Reference(r.id, r.values(f"references[{i}].embedding"))
                for i, r in enumerate(references)
            ),
        )


class Candidate(Form):
    """A label and the cosine of the embedding with its direction."""

    label: str
    score: float


class Classification(Form):
    """One picture's label; see docs/certificate.md, "Labels and neighbours"."""

    index: int
    label: str | None = Field(description="null when abstaining")
    score: float = Field(description="of the best candidate, abstained or not")
    certified_radius: float = Field(
        description="l2 distance within which the smoothed feature keeps the label; 0 if abstained"
    )
    abstained: bool
    candidates: list[Candidate] = Field(description="the five nearest, best first")
    certificate: Certificate
    statement: str


class ClassifyResponse(Form):
    """The answer of `POST /classify`, items in the order of the inputs."""

    model: str
    revision: str
    data: list[Classification]
    timing: Timing
