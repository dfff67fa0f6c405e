"""The OpenAI-compatible bodies and responses: chat completions, embeddings, models.

https://platform.openai.com/docs/api-reference. Sampling fields are those of `POST /embed`, sent as
extra fields (`extra_body` of the official client); what is certified comes back as extra fields.
Fields of the original that this service cannot honour are refused, not ignored.
"""

import base64
import time
import uuid
from dataclasses import replace
from typing import Annotated, Any, Literal

import numpy as np
import orjson
from pydantic import Field

from service import types
from service.conversations import MAX_MESSAGES, MAX_PARTS, conversation
from service.core import Core
from service.errors import ServiceError, invalid
from service.forms import Form, certificate_form
from service.rest.answers import SpokenResponse, certified, choices, stops, usage
from service.rest.errors import error_body
from service.rest.schemas import MAX_INPUTS, Number, SamplingBody
from service.types import AnswerRequest, AnswerResult, EmbedRequest, EmbedResult, ServiceInfo

_OWNER = "fcs-serve"


class ImageUrl(Form):
    """A picture as a data URI, or as the URL of a host that the operator allows."""

    url: str
    detail: Literal["auto", "low", "high"] = "auto"


class TextPart(Form):
    """Some text of a message."""

    type: Literal["text"]
    text: str


class ImagePart(Form):
    """A picture of a message."""

    type: Literal["image_url"]
    image_url: ImageUrl


class ChatMessage(Form):
    """One message of a conversation."""

    role: str = Field(description="system, user or assistant")
    content: (
        str
        | Annotated[
            list[Annotated[TextPart | ImagePart, Field(discriminator="type")]],
            Field(min_length=1, max_length=MAX_PARTS),
        ]
    )
    name: None = None

    def parts(self) -> tuple[str | None, ...]:
        """Texts, and None for pictures."""
        if isinstance(self.content, str):
            return (self.content,)
        return tuple(part.text if isinstance(part, TextPart) else None for part in self.content)


class StreamOptions(Form):
    """What a stream tells beside the text."""

    include_usage: bool = False


class ChatBody(SamplingBody):
    """`POST /v1/chat/completions`."""

    messages: Annotated[list[ChatMessage], Field(min_length=1, max_length=MAX_MESSAGES)]
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    temperature: Number | None = None
    top_p: Number | None = None
    stop: str | list[str] | None = None
    n: Literal[1] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    user: str | None = None
    answer_samples: int | None = Field(
        None, description="n0: draws whose mean the language model is shown"
    )
    generation_seed: Annotated[int, Field(ge=0, lt=2**63)] | None = None
    stability_draws: int = 0
    choices: list[str] | None = None
    votes: int | None = None

    def encoded(self) -> list[tuple[str, str]]:
        """Pictures as they were sent, each with its place."""
        return [
            (f"messages[{i}].content[{j}].image_url", part.image_url.url)
            for i, message in enumerate(self.messages)
            if not isinstance(message.content, str)
            for j, part in enumerate(message.content)
            if isinstance(part, ImagePart)
        ]

    def answer(self, images: tuple[bytes, ...]) -> AnswerRequest:
        """The transport-free request.

        Raises:
            ServiceError: invalid; no picture, two limits of tokens, or no last word of the user.
        """
        if not images:
            raise invalid("no message holds a picture: send an image_url part", "messages")
        both = self.max_tokens is not None and self.max_completion_tokens is not None
        if both:
            raise invalid("max_tokens and max_completion_tokens: give one", "max_tokens")
        told = [types.Message(message.role, message.parts()) for message in self.messages]
        embed = self.request(images)
        if self.answer_samples is not None:
            embed = replace(embed, selection_samples=self.answer_samples)
        return AnswerRequest(
            embed=embed,
            messages=conversation(None, told, len(images)),
            max_tokens=self.max_completion_tokens if self.max_tokens is None else self.max_tokens,
            temperature=self.temperature,
            top_p=self.top_p,
            stop=stops(self.stop),
            generation_seed=self.generation_seed,
            stability_draws=self.stability_draws,
            choices=choices(self.choices),
            votes=self.votes,
        )


class EmbeddingsBody(SamplingBody):
    """`POST /v1/embeddings`: pictures in place of texts."""

    input: str | Annotated[list[str], Field(max_length=MAX_INPUTS, fail_fast=True)]
    encoding_format: Literal["float", "base64"] = "float"
    user: str | None = None

    def encoded(self) -> list[tuple[str, str]]:
        """Pictures as they were sent, each with its place."""
        given = [self.input] if isinstance(self.input, str) else self.input
        return [(f"input[{i}]", text) for i, text in enumerate(given)]

    def embedding(self, images: tuple[bytes, ...]) -> EmbedRequest:
        """The transport-free request."""
        return self.request(images)


def completion(result: AnswerResult) -> bytes:
    """A `chat.completion`."""
    body = {
        "id": _id(),
        "object": "chat.completion",
        "created": int(time.time()),
        "model": result.model,
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": result.answer, "refusal": None},
                "finish_reason": result.finish,
                "logprobs": None,
            }
        ],
        "usage": usage(result),
        **certified(result),
        "revision": result.revision,
    }
    return orjson.dumps(body)


def embeddings(result: EmbedResult, encoding_format: str) -> bytes:
    """A list of `embedding`."""
    data = []
    for index, item in enumerate(result.data):
        values: Any = np.frombuffer(item.values, "<f4")
        if encoding_format == "base64":
            values = base64.b64encode(item.values).decode()
        certificate = None if item.certificate is None else certificate_form(item.certificate)
        data.append(
            {
                "object": "embedding",
                "index": index,
                "embedding": values,
                "certificate": certificate,
            }
        )
    body = {
        "object": "list",
        "data": data,
        "model": result.model,
        "revision": result.revision,
        "usage": {"prompt_tokens": 0, "total_tokens": 0},
    }
    return orjson.dumps(body, option=orjson.OPT_SERIALIZE_NUMPY)


def models(info: ServiceInfo, started: int) -> dict[str, Any]:
    """A list of `model`."""
    found = [
        {"id": model.name, "object": "model", "created": started, "owned_by": _OWNER}
        for model in info.models
    ]
    return {"object": "list", "data": found}


class CompletionStream(SpokenResponse):
    """`chat.completion.chunk` events; the certificate comes with the reason why it ended.

    Args:
        core: does the work.
        request: not yet admitted.
        model: as the request names it.
        with_usage: tell the tokens in an event of their own.
    """

    def __init__(self, core: Core, request: AnswerRequest, model: str, with_usage: bool) -> None:
        super().__init__(core, request)
        self._fixed = {
            "id": _id(),
            "object": "chat.completion.chunk",
            "created": int(time.time()),
            "model": model,
        }
        self._with_usage = with_usage
        self._first = True

    def spoken(self, text: str) -> bytes:
        """A chunk of more text."""
        delta = {"role": "assistant", "content": text} if self._first else {"content": text}
        self._first = False
        return self._chunk({"delta": delta, "finish_reason": None})

    def ended(self, result: AnswerResult) -> bytes:
        """The reason with what is certified, the tokens where asked, and the end."""
        extra = {**certified(result), "revision": result.revision}
        unread, self._unread = self._unread, ""
        last = self.spoken(unread) if unread or self._first else b""
        last += self._chunk({"delta": {}, "finish_reason": result.finish}, extra)
        if self._with_usage:
            last += _event({**self._fixed, "choices": [], "usage": usage(result)})
        return last + b"data: [DONE]\n\n"

    def failed(self, error: ServiceError) -> bytes:
        """As OpenAI's clients understand it."""
        return b"data: " + error_body(error) + b"\n\n"

    def _chunk(self, choice: dict[str, Any], extra: dict[str, Any] | None = None) -> bytes:
        choices = [{"index": 0, "logprobs": None, **choice}]
        return _event({**self._fixed, "choices": choices, **(extra or {})})


def _event(body: dict[str, Any]) -> bytes:
    return b"data: " + orjson.dumps(body) + b"\n\n"


def _id() -> str:
    return f"chatcmpl-{uuid.uuid4().hex}"
