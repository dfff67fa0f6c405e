"""The parts of an answer that need no event loop: its limits, what was shown, what is certified.

`service.asking` brings them together; `service.speaking` decodes.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from service.certificate.intervals import clopper_pearson_lower
from service.config import Settings
from service.errors import invalid
from service.models.loaded import LoadedModel
from service.models.noise import SEED_BYTES
from service.speaking import Spoken
from service.types import (
    AnswerRequest,
    AnswerResult,
    Certificate,
    Embedding,
    EmbedRequest,
    EmbedResult,
    Generation,
    JointBound,
    Stability,
    Timing,
    Vote,
)

if TYPE_CHECKING:
    from service.models.answerer.answerer import Answerer
    from service.models.answerer.prompt import Prompt

MAX_TEMPERATURE = 2.0
MAX_STOPS = 4
MAX_STOP_LENGTH = 100
_MOST_CHARACTERS = 64  # for each token that a prompt may have, which has four on average
_STABILITY_CONFIDENCE = 0.95


def language_of(model: LoadedModel, loaded: Sequence[LoadedModel]) -> Answerer:
    """The language of a model.

    Raises:
        ServiceError: invalid, naming the models that have one.
    """
    if model.answerer is None:
        able = ", ".join(sorted(one.name for one in loaded if one.answerer)) or "none is loaded"
        raise invalid(f"model {model.name!r} has no language; those that answer: {able}", "model")
    return model.answerer


def default_model(loaded: Sequence[LoadedModel]) -> str | None:
    """The name of the model that answers where none is named: the first with a language."""
    return next((one.name for one in loaded if one.answerer is not None), None)


def sampling(
    request: AnswerRequest, loaded: Sequence[LoadedModel], settings: Settings
) -> EmbedRequest:
    """Which model samples the pictures, and how: by default the first that has a language.

    By default with few draws, too, as nobody compares the embedding.
    """
    wanted = request.embed
    if wanted.model is None:
        wanted = replace(wanted, model=default_model(loaded))
    if wanted.receipt:
        raise invalid("a receipt is of an embedding, not of an answer: use embed", "receipt")
    if request.votes is not None and not request.choices:
        raise invalid("votes are on choices: give them", "votes")
    if wanted.selection_samples is not None:
        return wanted
    return replace(wanted, selection_samples=settings.default_answer_samples)


def further(request: AnswerRequest, wanted: EmbedRequest, settings: Settings) -> EmbedRequest:
    """The same pictures again, once for each further answer, with noise of their own.

    Raises:
        ServiceError: invalid, for more pictures in all than a request may have.
    """
    draws, pictures = request.stability_draws, len(wanted.images)
    most = settings.max_pictures // max(pictures, 1)
    if not 0 <= draws <= most:
        raise invalid(
            f"stability_draws is {draws}; allowed are 0 to {most} for {pictures} pictures",
            "stability_draws",
        )
    images = wanted.images * draws
    return replace(apart(wanted), images=images, certify=False, target="default")


def apart(wanted: EmbedRequest) -> EmbedRequest:
    """The same, from other noise than that of the answer itself."""
    if wanted.seed is None:
        return wanted
    seed = hashlib.blake2b(wanted.seed.encode(), digest_size=SEED_BYTES).hexdigest()
    return replace(wanted, seed=seed)


def stability(answer: str, others: Sequence[str]) -> Stability:
    """How stable an answer is over further draws."""
    agreeing = sum(plain(other) == plain(answer) for other in others)
    alpha = 1 - _STABILITY_CONFIDENCE
    lower = clopper_pearson_lower(agreeing, len(others), alpha)
    return Stability(len(others), agreeing, lower, _STABILITY_CONFIDENCE)


def plain(answer: str) -> str:
    """An answer without letter case, punctuation and needless spaces."""
    return " ".join(re.sub(r"[^\w\s]", " ", answer.lower()).split())


def generation(request: AnswerRequest, prompt: Prompt, context: int, s: Settings) -> Generation:
    """How tokens are chosen, every number checked.

    Args:
        request: as the transport received it.
        prompt: what it asks.
        context: most tokens of prompt and answer together.
        s: limits and defaults.

    Raises:
        ServiceError: invalid, naming the field and what is allowed.
    """
    room = context - prompt.length
    tokens = request.max_tokens
    if tokens is None:
        tokens = min(s.default_answer_tokens, room)
    if not 1 <= tokens <= min(s.max_answer_tokens, room):
        raise invalid(
            f"max_tokens is {tokens}; allowed are 1 to {min(s.max_answer_tokens, room)} after a"
            f" prompt of {prompt.length} tokens",
            "max_tokens",
        )
    temperature = 0.0 if request.temperature is None else request.temperature
    if not 0 <= temperature <= MAX_TEMPERATURE:
        raise invalid(
            f"temperature is {temperature}; allowed are 0 to {MAX_TEMPERATURE:g}", "temperature"
        )
    top_p = 1.0 if request.top_p is None else request.top_p
    if not 0 < top_p <= 1:
        raise invalid(f"top_p is {top_p}; allowed is 0 < top_p <= 1", "top_p")
    if len(request.stop) > MAX_STOPS or not all(
        1 <= len(stop) <= MAX_STOP_LENGTH for stop in request.stop
    ):
        raise invalid(
            f"stop takes at most {MAX_STOPS} texts of 1 to {MAX_STOP_LENGTH} characters", "stop"
        )
    seed = request.generation_seed
    if seed is None:
        seed = int.from_bytes(os.urandom(7))
    return Generation(tokens, temperature, top_p, seed, request.stop)


@dataclass(slots=True)
class Shown:
    """What the language is shown of each picture, as it comes from the device.

    Attributes:
        answerer: whose language it is.
        pictures: that are awaited.
        complete: called once, on a device thread, when all are there.
    """

    answerer: Answerer
    pictures: int
    complete: Callable[[], None] = lambda: None
    _embeddings: dict[int, tuple[NDArray[np.float32], float]] = field(default_factory=dict)

    def take(self, picture: int, embedding: NDArray[np.float32], norm: float) -> None:
        """The selection mean of one picture and the mean norm of its features.

        Once all are there they are what was shown, whatever a picture that starts over finds.
        """
        if len(self._embeddings) == self.pictures:
            return
        self._embeddings[picture] = (embedding, norm)
        if len(self._embeddings) == self.pictures:
            self.complete()

    @property
    def maps(self) -> tuple[Tensor, ...]:
        """Token maps, in the order of the pictures."""
        found = (self._embeddings[i] for i in range(self.pictures))
        return tuple(self.answerer.token_map(embedding, norm) for embedding, norm in found)

    def is_of(self, data: Sequence[Embedding]) -> bool:
        """Whether these very embeddings were shown; not after a change of the batch shape."""
        return all(
            self._embeddings[i][0].astype("<f4").tobytes() == item.values
            for i, item in enumerate(data)
        )

    def joint(self, certificates: Sequence[Certificate]) -> tuple[JointBound, ...]:
        """Bounds for all pictures together (docs/answers.md, "Several pictures")."""
        weights = [self._embeddings[i][1] ** 2 for i in range(self.pictures)]
        return tuple(
            JointBound(
                at[0].radius,
                sum(w * b.bound for w, b in zip(weights, at, strict=True)) / sum(weights),
            )
            for at in zip(*(certificate.bounds for certificate in certificates), strict=True)
        )


def result(
    embedded: EmbedResult,
    shown: Shown,
    spoken: Spoken,
    prompt: Prompt,
    confidence: float,
    beside: Stability | Vote | None,
    timing: Timing,
) -> AnswerResult:
    """The whole answer.

    Args:
        embedded: of the pictures.
        shown: what of them the language saw.
        spoken: what it said.
        prompt: what it was asked.
        confidence: of each certificate.
        beside: what further draws tell of the answer, where they were asked for.
        timing: of the request.
    """
    certificates = tuple(c for item in embedded.data if (c := item.certificate) is not None)
    several = len(certificates) > 1
    return AnswerResult(
        model=embedded.model,
        revision=embedded.revision,
        answer=spoken.text,
        finish=spoken.finish,
        prompt_tokens=prompt.length,
        answer_tokens=spoken.tokens,
        certificates=certificates,
        joint=shown.joint(certificates) if several else (),
        joint_confidence=max(0.0, 1 - len(certificates) * (1 - confidence)) if several else None,
        stability=beside if isinstance(beside, Stability) else None,
        vote=beside if isinstance(beside, Vote) else None,
        statement=statement(certificates, isinstance(beside, Vote)),
        timing=timing,
        receipts=tuple(r for item in embedded.data if (r := item.receipt) is not None),
    )


def statement(certificates: Sequence[Certificate], voted: bool) -> str:
    """What the certificates of an answer speak of, for a person; votes have their own statement."""
    if not certificates:
        if voted:
            return "Nothing is certified of the features; what the votes prove is said beside them."
        return "Nothing is certified: the request did not ask for it."
    said = (
        "The certificates speak of the visual features that the language model was shown: how far"
        " an attack on the pictures can turn them. They say nothing of the words of the answer"
    )
    return f"{said}; the votes do." if voted else f"{said}."


def check_text(request: AnswerRequest, settings: Settings) -> None:
    """Raise invalid for text that no tokenizer should have to read."""
    most = _MOST_CHARACTERS * settings.max_prompt_tokens
    given = sum(len(part) for one in request.messages for part in one.parts if part is not None)
    if given > most:
        raise invalid(f"the prompt has {given} characters; allowed are {most}", "messages")


def check_prompt(prompt: Prompt, answerer: Answerer, settings: Settings) -> None:
    """Raise invalid for a prompt whose reading would hold up everybody else's answers."""
    text = prompt.length - prompt.pictures * answerer.shape[0]
    if text > settings.max_prompt_tokens:
        raise invalid(
            f"the prompt has {text} tokens beside its pictures; allowed are"
            f" {settings.max_prompt_tokens}",
            "messages",
        )
