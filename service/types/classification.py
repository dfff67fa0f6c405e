"""Labels and nearest neighbours, each with its certified radius."""

from array import array
from dataclasses import dataclass

from service.types.certificates import Certificate
from service.types.embedding import EmbedRequest, Timing


@dataclass(frozen=True, slots=True)
class Reference:
    """A vector a picture may be nearest to: doubles of the model's length, any norm but zero."""

    id: str
    embedding: "array[float]"


@dataclass(frozen=True, slots=True)
class ClassifyRequest:
    """Pictures to label; exactly one of `labels`, `label_set` and `references` is given.

    Attributes:
        embed: pictures and sampling. The default target is not used: all `samples` serve the label.
        labels: texts, for a model with a text tower.
        template: what the texts are put into, at its one "{}"; None: "a photo of a {}."
        label_set: name of a set kept with the model.
        references: the label is then the id of the nearest one.
    """

    embed: EmbedRequest
    labels: tuple[str, ...] | None = None
    template: str | None = None
    label_set: str | None = None
    references: tuple[Reference, ...] | None = None


@dataclass(frozen=True, slots=True)
class Candidate:
    """A label and the cosine of the embedding with its direction."""

    label: str
    score: float


@dataclass(frozen=True, slots=True)
class Classification:
    """One picture's label.

    Attributes:
        label: None when abstaining.
        score: of the best candidate, abstained or not.
        certified_radius: l2 distance within which F(x') provably keeps the label, at the confidence
            of the certificate; 0 when abstaining.
        candidates: the five nearest labels, best first.
        certificate: of the embedding.
        statement: one sentence a person can read.
    """

    label: str | None
    score: float
    certified_radius: float
    abstained: bool
    candidates: tuple[Candidate, ...]
    certificate: Certificate
    statement: str


@dataclass(frozen=True, slots=True)
class ClassifyResult:
    """The answer to a `ClassifyRequest`, items in the order of its pictures."""

    model: str
    revision: str
    data: tuple[Classification, ...]
    timing: Timing
