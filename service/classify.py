"""What a picture is compared with, from a request; and the answer, from what the samples prove.

Labels as text, a named set, or reference vectors: all become unit `Directions`, fixed before any
noise is drawn. Certified labels and certified nearest neighbours are then one and the same.
"""

import asyncio

import numpy as np

from service.certificate.labels import (
    Directions,
    LabelTally,
    label_tally_bytes,
    same_direction,
)
from service.certificate.statement import label_statement
from service.errors import invalid, shown
from service.models.loaded import LoadedModel
from service.types import (
    Candidate,
    Classification,
    ClassifyRequest,
    Embedding,
    Reference,
)

MAX_LABELS = 1000
MAX_REFERENCES = 10_000
DEFAULT_TEMPLATE = "a photo of a {}."
_MAX_CHARACTERS = 1000
_PLACE = "{}"
# Texts encoded between two looks at whether the caller is still there.
_TEXTS_AT_A_TIME = 16


async def directions(request: ClassifyRequest, model: LoadedModel) -> Directions:
    """The labels of a request, each with its unit direction in the model's feature space.

    Raises:
        ServiceError: invalid, naming the field at fault.
    """
    given = [
        name for name in ("labels", "label_set", "references") if getattr(request, name) is not None
    ]
    if len(given) != 1:
        found = " and ".join(given) or "none"
        raise invalid(
            f"give exactly one of labels, label_set and references; found {found}",
            given[1] if given else "labels",
        )
    if request.template is not None and request.labels is None:
        raise invalid("a template is for labels given as text", "template")
    if request.labels is not None:
        return await _of_texts(request.labels, request.template, model)
    if request.references is not None:
        return await asyncio.to_thread(_of_references, request.references, model)
    return _of_set(request.label_set or "", model)


def memory(request: ClassifyRequest, model: LoadedModel, samples: int) -> int:
    """Bytes that a request holds while it waits, beside those of `embed`.

    Args:
        request: its references count twice, as given and as directions.
        model: whose features are kept.
        samples: estimation samples of each picture.
    """
    length = model.pipeline.dimensions
    vectors = len(request.labels or ()) + 2 * len(request.references or ())
    return 8 * length * vectors + len(request.embed.images) * label_tally_bytes(length, samples)


def answer(item: Embedding, tally: LabelTally, sigma: float, alpha: float) -> Classification:
    """One picture's label beside the certificate of its embedding.

    Args:
        item: what `embed` answers.
        tally: shown the same samples.
        sigma: noise level, RGB in [0, 1].
        alpha: of the statement about the label.
    """
    certificate = item.certificate
    if certificate is None:
        raise RuntimeError("a label is only given with its certificate")
    found = tally.findings(certificate.estimation_samples, sigma, alpha)
    candidates = tuple(Candidate(name, score) for name, score in found.candidates)
    best = candidates[0]
    label = None if found.abstained else best.label
    return Classification(
        label=label,
        score=best.score,
        certified_radius=found.radius,
        abstained=found.abstained,
        candidates=candidates,
        certificate=certificate,
        statement=label_statement(label, found.radius, tally.labels, certificate),
    )


def _of_set(name: str, model: LoadedModel) -> Directions:
    for kept in model.label_sets:
        if kept.name == name:
            return kept.directions
    raise invalid(
        f"model {model.name!r} has no label set {shown(name)}; {_offer(model)}", "label_set"
    )


async def _of_texts(
    labels: tuple[str, ...], template: str | None, model: LoadedModel
) -> Directions:
    if model.text is None:
        raise invalid(
            f"model {model.name!r} takes no labels as text: it has no text tower with a tokenizer;"
            f" {_offer(model)}",
            "labels",
        )
    _distinct(labels, "labels", MAX_LABELS, "labels[{}]")
    frame = DEFAULT_TEMPLATE if template is None else template
    if frame.count(_PLACE) != 1 or len(frame) > _MAX_CHARACTERS:
        raise invalid(
            f"a template has one {_PLACE} for the label and at most {_MAX_CHARACTERS} characters,"
            f" like {DEFAULT_TEMPLATE!r}",
            "template",
        )
    texts = [frame.replace(_PLACE, label) for label in labels]
    params = [f"labels[{i}]" for i in range(len(labels))]
    rows = []
    for first in range(0, len(texts), _TEXTS_AT_A_TIME):
        part = slice(first, first + _TEXTS_AT_A_TIME)
        rows.append(await asyncio.wrap_future(model.text.encode_later(texts[part], params[part])))
    exact = np.concatenate(rows).astype(np.float64)
    exact /= np.linalg.norm(exact, axis=1, keepdims=True)
    made = Directions(labels, exact)
    await asyncio.to_thread(_refuse_same, made, "labels[{}]")
    return made


def _of_references(references: tuple[Reference, ...], model: LoadedModel) -> Directions:
    names = tuple(reference.id for reference in references)
    _distinct(names, "references", MAX_REFERENCES, "references[{}].id")
    length = model.pipeline.dimensions
    vectors = np.empty((len(names), length))
    for i, reference in enumerate(references):
        param = f"references[{i}].embedding"
        if len(reference.embedding) != length:
            raise invalid(
                f"{len(reference.embedding)} numbers; embeddings of this model have {length}", param
            )
        values = np.array(reference.embedding, dtype=np.float64)
        # Scaled first: the square of a large finite number may be infinite.
        largest = float(np.abs(values).max())
        if not (np.isfinite(largest) and largest > 0):
            raise invalid("an embedding must be finite and not all zero", param)
        vectors[i] = values / largest
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    made = Directions(names, vectors)
    _refuse_same(made, "references[{}].embedding")
    return made


def _distinct(names: tuple[str, ...], field: str, most: int, place: str) -> None:
    """Between 2 and `most` non-empty names, none twice."""
    if not 2 <= len(names) <= most:
        raise invalid(
            f"{len(names)} {field}; allowed are 2 to {most} (a choice among fewer is none)", field
        )
    seen: set[str] = set()
    for i, name in enumerate(names):
        if not name.strip():
            raise invalid("a name must not be empty", place.format(i))
        if len(name) > _MAX_CHARACTERS:
            raise invalid(f"{len(name)} characters; allowed are {_MAX_CHARACTERS}", place.format(i))
        if name in seen:
            raise invalid(f"{shown(name)} is given twice", place.format(i))
        seen.add(name)


def _refuse_same(made: Directions, place: str) -> None:
    if (pair := same_direction(made.vectors)) is not None:
        one, two = (shown(made.names[i]) for i in pair)
        raise invalid(
            f"{two} has the same direction as {one}: no picture can tell them apart",
            place.format(pair[1]),
        )


def _offer(model: LoadedModel) -> str:
    """What this model can be asked instead."""
    sets = ", ".join(shown(kept.name) for kept in model.label_sets)
    offers = [f"label_set: {sets}"] if sets else []
    offers += ["labels as text"] if model.text is not None else []
    return "it offers " + ", ".join([*offers, "references"])
