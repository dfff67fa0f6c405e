"""`POST /answer`: its body, its response, and its stream of events."""

from dataclasses import replace
from typing import Annotated, Any, Literal

import orjson
from fastapi.sse import format_sse_event
from pydantic import BaseModel, Field

from service import types
from service.conversations import MAX_MESSAGES, MAX_PARTS, conversation
from service.core import Core
from service.errors import ServiceError, invalid
from service.forms import Certificate, Form, Share, certificate_form
from service.rest.errors import error_body
from service.rest.events import LiveResponse
from service.rest.schemas import ErrorResponse, Number, PictureBody, Timing
from service.types import AnswerRequest, AnswerResult, FinishReason, Said


class TextPart(Form):
    """Some text of a message."""

    type: Literal["text"]
    text: str


class PicturePart(Form):
    """The place of the next of `inputs`."""

    type: Literal["image"]


class Message(Form):
    """One message of a conversation."""

    role: str = Field(description="system, user or assistant")
    content: (
        str
        | Annotated[
            list[Annotated[TextPart | PicturePart, Field(discriminator="type")]],
            Field(min_length=1, max_length=MAX_PARTS),
        ]
    )

    def parts(self) -> tuple[str | None, ...]:
        """Texts, and None for pictures."""
        if isinstance(self.content, str):
            return (self.content,)
        return tuple(part.text if isinstance(part, TextPart) else None for part in self.content)


class AnswerBody(PictureBody):
    """`POST /answer`: pictures, and a prompt or messages about them."""

    prompt: str | None = Field(None, description="a question about the pictures")
    messages: Annotated[list[Message], Field(min_length=1, max_length=MAX_MESSAGES)] | None = Field(
        None, description="a conversation instead; without image parts, pictures come first"
    )
    answer_samples: int | None = Field(
        None, description="n0: draws whose mean the language model is shown"
    )
    max_tokens: int | None = None
    temperature: Number | None = Field(None, description="0, the default: the likeliest each time")
    top_p: Number | None = None
    stop: str | list[str] | None = Field(None, description="texts that end the answer")
    generation_seed: Annotated[int, Field(ge=0, lt=2**63)] | None = None
    stability_draws: int = Field(
        0, description="further answers, each from features of its own draws, to compare"
    )
    choices: list[str] | None = Field(
        None, description="the only answers there are; draws vote on the one that is chosen"
    )
    votes: int | None = Field(None, description="draws that vote on a choice, each alone")
    stream: bool = Field(False, description="answer with server-sent events")

    def answer(self, images: tuple[bytes, ...]) -> AnswerRequest:
        """The transport-free request.

        Raises:
            ServiceError: invalid, where prompt, messages and pictures do not fit together.
        """
        if self.answer_samples is not None and self.selection_samples is not None:
            raise invalid(
                "answer_samples and selection_samples are the same: give one", "answer_samples"
            )
        told = [types.Message(one.role, one.parts()) for one in self.messages or ()]
        embed = self.request(images)
        if self.answer_samples is not None:
            embed = replace(embed, selection_samples=self.answer_samples)
        return AnswerRequest(
            embed=embed,
            messages=conversation(self.prompt, told, len(images)),
            max_tokens=self.max_tokens,
            temperature=self.temperature,
            top_p=self.top_p,
            stop=stops(self.stop),
            generation_seed=self.generation_seed,
            stability_draws=self.stability_draws,
            choices=choices(self.choices),
            votes=self.votes,
        )


def choices(given: list[str] | None) -> tuple[str, ...]:
    """The answers there are, if any were given.

    Raises:
        ServiceError: invalid; a list with nothing in it leaves no answer at all.
    """
    if given is not None and not given:
        raise invalid("no choice is given: leave choices out for an open answer", "choices")
    return tuple(given or ())


def stops(given: str | list[str] | None) -> tuple[str, ...]:
    """One text, several, or none."""
    if given is None:
        return ()
    return (given,) if isinstance(given, str) else tuple(given)


class JointBound(Form):
    """For all pictures together, each within `radius` of its own."""

    radius: float
    bound: float


class Joint(Form):
    """What holds for everything the language model was shown together."""

    bounds: list[JointBound]
    confidence: float


class Stability(Form):
    """How many further answers said the same, letter case and punctuation aside."""

    draws: int
    agreeing: int
    lower: Share = Field(description="lower bound on the chance that the next one agrees")
    confidence: Share


class Choice(Form):
    """One of the answers there are."""

    text: str
    votes: int


class Vote(Form):
    """What draws that voted on a closed answer prove of it."""

    choices: list[Choice]
    draws: int
    agreeing: int
    lower: Share = Field(description="lower bound on the share of all noise that votes for it")
    certified_radius: float = Field(
        ge=0,
        description="l2 distance, over all pictures together, within which most noise goes on"
        " voting for the answer; 0 when abstaining",
    )
    abstained: bool
    confidence: Share
    statement: str


class AnswerResponse(Form):
    """The answer of `POST /answer`."""

    model: str
    revision: str
    answer: str
    finish_reason: FinishReason
    certificate: Certificate | None = Field(description="of the only picture; null with several")
    certificates: list[Certificate] = Field(description="of each picture, in order")
    joint: Joint | None = Field(description="of several pictures together")
    stability: Stability | None = Field(description="null unless stability_draws were asked")
    vote: Vote | None = Field(description="null unless choices were given")
    statement: str = Field(description="what the certificates speak of")
    usage: dict[str, int]
    timing: Timing


class TextEvent(Form):
    """More of the answer."""

    text: str


ANSWER_EVENTS: dict[str, type[BaseModel]] = {
    "text": TextEvent,
    "result": AnswerResponse,
    "error": ErrorResponse,
}


def certified(result: AnswerResult) -> dict[str, Any]:
    """What is certified of an answer, the same at every door of HTTP."""
    each = [certificate_form(certificate) for certificate in result.certificates]
    joint = None
    if result.joint:
        joint = {"bounds": result.joint, "confidence": result.joint_confidence}
    return {
        "certificate": each[0] if len(each) == 1 else None,
        "certificates": each,
        "joint": joint,
        "stability": result.stability,
        "vote": result.vote,
        "statement": result.statement,
    }


def usage(result: AnswerResult) -> dict[str, int]:
    """Tokens, as OpenAI's clients count them."""
    return {
        "prompt_tokens": result.prompt_tokens,
        "completion_tokens": result.answer_tokens,
        "total_tokens": result.prompt_tokens + result.answer_tokens,
    }


def encoded(result: AnswerResult) -> bytes:
    """The body of `POST /answer`, one line of JSON."""
    body = {
        "model": result.model,
        "revision": result.revision,
        "answer": result.answer,
        "finish_reason": result.finish,
        **certified(result),
        "usage": usage(result),
        "timing": result.timing,
    }
    return orjson.dumps(body)


class SpokenResponse(LiveResponse):
    """An answer while it is spoken; what was not read yet is one piece.

    Args:
        core: does the work.
        request: not yet admitted.
    """

    def __init__(self, core: Core, request: AnswerRequest) -> None:
        super().__init__(core)
        self._request = request
        self._unread = ""

    async def work(self) -> bytes:
        """The whole request; its result."""
        return self.ended(await self.core.answer(self._request, self._heard))

    def chunk(self, event: Said) -> bytes:
        """All that was said since the last."""
        text, self._unread = self._unread, ""
        return self.spoken(text)

    def spoken(self, text: str) -> bytes:
        """An event of more text."""
        return format_sse_event(event="text", data_str=orjson.dumps({"text": text}).decode())

    def ended(self, result: AnswerResult) -> bytes:
        """The last event."""
        return format_sse_event(event="result", data_str=encoded(result).decode())

    def failed(self, error: ServiceError) -> bytes:
        """The error as it is elsewhere."""
        return format_sse_event(event="error", data_str=error_body(error).decode())

    def _heard(self, event: Said | types.Event) -> None:
        if isinstance(event, Said):
            self._unread += event.text
            self.news.put(0, event)
        else:
            self.news.put(-1, event)
