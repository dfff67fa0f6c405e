"""Answers -> what is recorded of them.

A receipt can be computed again: the embedding and its certificate. A label's radius and the votes
on a closed answer are recorded as they were answered, but what they depend on beside the picture
(the labels, the references, the conversation) is the client's and is not kept: of texts there are
digests alone.
"""

import hashlib
from collections.abc import Sequence

from service.audit.lines import Entry
from service.types import AnswerResult, Classification, Embedding


def of_embeddings(items: Sequence[Embedding]) -> list[Entry]:
    """One for each certificate."""
    return [
        Entry("embedding", i, item.receipt, None)
        for i, item in enumerate(items)
        if item.certificate is not None
    ]


def of_labels(items: Sequence[Classification], receipts: Sequence[str | None]) -> list[Entry]:
    """One for each picture: what is certified of its label, and the receipt of its embedding."""
    return [
        Entry(
            "label",
            i,
            receipt,
            {
                "label": None if item.label is None else text_digest(item.label),
                "certified_radius": item.certified_radius,
                "abstained": item.abstained,
            },
        )
        for i, (item, receipt) in enumerate(zip(items, receipts, strict=True))
    ]


def of_answer(answer: AnswerResult) -> list[Entry]:
    """One for each picture whose features are certified; without any, one for the votes."""
    if not answer.receipts and answer.vote is None:
        return []
    result: dict[str, object] = {"answer": text_digest(answer.answer)}
    if (vote := answer.vote) is not None:
        result["vote"] = {
            "draws": vote.draws,
            "agreeing": vote.agreeing,
            "lower": vote.lower,
            "certified_radius": vote.certified_radius,
            "abstained": vote.abstained,
            "confidence": vote.confidence,
        }
    if answer.joint:
        result["joint"] = {
            "bounds": [{"radius": b.radius, "bound": b.bound} for b in answer.joint],
            "confidence": answer.joint_confidence,
        }
    return [
        Entry("answer", i, receipt, result) for i, receipt in enumerate(answer.receipts or (None,))
    ]


def text_digest(text: str) -> str:
    """Of a text's UTF-8 bytes."""
    return f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"
