"""Conversations about pictures, and what is certified of the answers."""

from dataclasses import dataclass
from typing import Literal

from service.types.certificates import Certificate
from service.types.embedding import EmbedRequest, Timing

FinishReason = Literal["stop", "length"]


@dataclass(frozen=True, slots=True)
class Message:
    """One of a conversation: its texts, and None in the place of each picture.

    Attributes:
        role: system, user or assistant.
    """

    role: str
    parts: tuple[str | None, ...]


@dataclass(frozen=True, slots=True)
class Generation:
    """How the tokens of an answer are chosen.

    Attributes:
        max_tokens: of the answer.
        temperature: 0 takes the likeliest token each time.
        top_p: probability of the nucleus that tokens are drawn from.
        seed: of the drawing; no part of any certificate.
        stop: texts that end the answer, left out of it.
    """

    max_tokens: int
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0
    stop: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class AnswerRequest:
    """A conversation about pictures; None means "the default".

    Attributes:
        embed: the pictures, in the order of their places in the messages, and their sampling;
            `selection_samples` are the draws whose mean the language is shown (answer_samples).
        messages: the last is the user's.
        max_tokens, temperature, top_p, stop: as in `Generation`.
        generation_seed: of the drawing of tokens; None: a new one each time.
        stability_draws: further answers, each from features of its own draws, to compare with it.
        choices: the only answers there are; then the answer is one of them, voted on.
        votes: draws that vote on it, each alone.
    """

    embed: EmbedRequest
    messages: tuple[Message, ...]
    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    stop: tuple[str, ...] = ()
    generation_seed: int | None = None
    stability_draws: int = 0
    choices: tuple[str, ...] = ()
    votes: int | None = None


@dataclass(frozen=True, slots=True)
class Choice:
    """One of the answers there are, and how many draws voted for it."""

    text: str
    votes: int


@dataclass(frozen=True, slots=True)
class Vote:
    """What the votes of further draws prove of a closed answer (docs/answers.md, "Closed answers").

    Attributes:
        choices: all of them, in the order of the request.
        draws: of the pictures, each of which voted once.
        agreeing: that voted for the answer.
        lower: lower confidence bound on the share of all noise that does.
        certified_radius: l2 distance, over all pictures together, within which most noise provably
            goes on voting for the answer; 0 when abstaining.
        abstained: not even at the pictures themselves is it certain that most noise does.
        confidence: of `lower` and the radius, on its own.
        statement: one sentence a person can read.
    """

    choices: tuple[Choice, ...]
    draws: int
    agreeing: int
    lower: float
    certified_radius: float
    abstained: bool
    confidence: float
    statement: str


@dataclass(frozen=True, slots=True)
class Stability:
    """How many further answers said the same, letter case and punctuation aside.

    Attributes:
        draws: further answers, each from features of its own draws of the same pictures.
        agreeing: of them.
        lower: lower confidence bound on the chance that the next one agrees.
        confidence: of that bound.
    """

    draws: int
    agreeing: int
    lower: float
    confidence: float


@dataclass(frozen=True, slots=True)
class Said:
    """A new piece of an answer's text."""

    text: str


@dataclass(frozen=True, slots=True)
class JointBound:
    """What holds for all pictures of a request together, each within `radius` of its own.

    Attributes:
        bound: lower bound on the cosine of everything the language was shown with what it would be
            shown, each picture's features at the scale they have here.
    """

    radius: float
    bound: float


@dataclass(frozen=True, slots=True)
class AnswerResult:
    """The answer to an `AnswerRequest`.

    Attributes:
        certificates: of what the language was shown of each picture, in order; empty where none
            was asked.
        joint: bounds for all pictures together, at `joint_confidence`; empty for a single one.
        statement: what the certificates speak of, and what not.
        stability: of the answer over further draws; None where none were asked.
        vote: on a closed answer; None where no choices were given.
        prompt_tokens: those of the pictures among them.
        receipts: of the pictures' embeddings, JSON texts, for the audit log; empty without one.
    """

    model: str
    revision: str
    answer: str
    finish: FinishReason
    prompt_tokens: int
    answer_tokens: int
    certificates: tuple[Certificate, ...]
    joint: tuple[JointBound, ...]
    joint_confidence: float | None
    stability: Stability | None
    vote: Vote | None
    statement: str
    timing: Timing
    receipts: tuple[str, ...] = ()
