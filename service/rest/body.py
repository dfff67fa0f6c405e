"""Request body -> (body of its kind, pictures): JSON or multipart, within the byte limit."""

import asyncio
import base64
import binascii
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, TypeVar

from fastapi import Request
from pydantic import ValidationError
from pydantic_core import from_json
from python_multipart.multipart import parse_options_header
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException
from starlette.types import Message

from service.config import Settings
from service.errors import Kind, ServiceError, invalid, shown, too_large
from service.rest.schemas import MAX_INPUTS, PictureBody, SamplingBody

_MAX_PARTS = 1000
# Values of one request: a parser that holds the interpreter must not hold it for seconds.
_MAX_VALUES = 1_000_000
_LARGE = 1024 * 1024  # bodies from this size on are parsed one at a time
_TEXT_FIELDS = {
    "inputs",
    "model",
    "profile",
    "encoding_format",
    "seed",
    "template",
    "label_set",
    "prompt",
}
_LIST_FIELDS = {"inputs", "radii", "labels", "references"}
# Lists of texts: a value that is no JSON list is one text, even if it looks like a number.
_TEXT_LISTS = {"labels"}
B = TypeVar("B", bound=PictureBody)
S = TypeVar("S", bound=SamplingBody)
T = TypeVar("T")
# Pydantic's names for branches of unions, which say nothing to a client.
_BRANCHES = {"str", "list[str]", "base64", "numbers", "text", "image", "image_url"}


class BodyReader:
    """Reads request bodies within the limits of one service: each in size and time, all in memory.

    Args:
        settings: `max_body_bytes`, `max_buffered_bytes` and `body_timeout_ms`.
    """

    def __init__(self, settings: Settings) -> None:
        self._most = settings.max_body_bytes
        self._most_together = settings.max_buffered_bytes
        self._timeout_s = settings.body_timeout_ms / 1000
        self._buffered = 0
        self._parsing = asyncio.Lock()

    async def read(self, request: Request, kind: type[B]) -> tuple[B, tuple[bytes, ...]]:
        """Parse the body of `POST /embed` or `POST /classify`.

        Raises:
            ServiceError: media_type, too_large, busy when too much is being uploaded, deadline when
                the body does not arrive in time, or invalid naming the field.
        """
        header = request.headers.get("content-type", "")
        content_type = header.partition(";")[0].strip().lower()
        if content_type == "application/json":
            data = await self._read(request)
            return await self._off_the_loop(len(data), partial(parse_json, data, kind))
        if content_type == "multipart/form-data":
            data = await self._read(request)
            inputs, fields = await _split_form(request, data)
            return await self._off_the_loop(len(data), partial(parse_fields, inputs, fields, kind))
        raise ServiceError(
            Kind.MEDIA_TYPE,
            f"content type {shown(content_type) if content_type else 'absent'};"
            " send application/json or multipart/form-data",
        )

    async def read_json(self, request: Request, kind: type[S]) -> tuple[S, tuple[bytes, ...]]:
        """Parse a body that is JSON alone.

        Raises:
            ServiceError: as `read`.
        """
        header = request.headers.get("content-type", "")
        content_type = header.partition(";")[0].strip().lower()
        if content_type != "application/json":
            raise ServiceError(
                Kind.MEDIA_TYPE,
                f"content type {shown(content_type) if content_type else 'absent'};"
                " send application/json",
            )
        data = await self._read(request)
        return await self._off_the_loop(len(data), partial(parse_json, data, kind))

    async def _off_the_loop(self, size: int, parse: Callable[[], T]) -> T:
        """Megabytes of base64 or numbers: in a thread, and large bodies one at a time."""
        if size < _LARGE:
            return await asyncio.to_thread(parse)
        async with self._parsing:
            return await asyncio.to_thread(parse)

    async def _read(self, request: Request) -> bytes:
        """The whole body; a size over a limit ends it before it is kept."""
        declared = request.headers.get("content-length", "")
        if declared.isdigit() and int(declared) > self._most:
            raise too_large(
                f"the body has {declared[:30]} bytes; at most {self._most} are accepted"
            )
        body = bytearray()
        try:
            async with asyncio.timeout(self._timeout_s):
                async for chunk in request.stream():
                    body += chunk
                    self._buffered += len(chunk)
                    self._check(len(body))
        except TimeoutError as error:
            raise ServiceError(
                Kind.DEADLINE, f"the body did not arrive within {self._timeout_s:g} seconds"
            ) from error
        finally:
            self._buffered -= len(body)
        return bytes(body)

    def _check(self, size: int) -> None:
        if size > self._most:
            raise too_large(f"the body is over the limit of {self._most} bytes")
        if self._buffered > self._most_together:
            raise ServiceError(
                Kind.BUSY,
                f"uploads in progress hold {self._buffered} bytes, over {self._most_together}",
                retry_after_s=self._timeout_s,
            )


def parse_json(data: bytes, kind: type[S]) -> tuple[S, tuple[bytes, ...]]:
    """Strictly typed JSON -> body and its pictures.

    Raises:
        ServiceError: invalid, naming the field.
    """
    _check_values(data.count(b","))
    try:
        fields = from_json(data)
    except ValueError as error:
        raise invalid(f"the body is not JSON: {error}") from error
    if not isinstance(fields, dict):
        raise invalid("the body must be a JSON object")
    body = _validated(fields, kind)
    return body, tuple(_picture(text, param) for param, text in body.encoded())


def _check_values(commas: int) -> None:
    if commas >= _MAX_VALUES:
        raise too_large(
            f"more than {_MAX_VALUES} values in one request; send embeddings as base64 of"
            " little-endian float32, or over gRPC"
        )


def _validated(fields: dict[str, Any], kind: type[S]) -> S:
    """Known fields only, each of its type; a hostile body must not cost an error a value."""
    if unknown := next((name for name in fields if name not in kind.model_fields), None):
        allowed = ", ".join(kind.model_fields)
        raise invalid(f"unknown field {shown(unknown)}; allowed are {allowed}", unknown[:100])
    try:
        return kind.model_validate(fields)
    except ValidationError as error:
        raise _explained(error) from error


def parse_fields(
    inputs: list[bytes | str], texts: list[tuple[str, str]], kind: type[B]
) -> tuple[B, tuple[bytes, ...]]:
    """The parts of a form, files as bytes -> body and its pictures.

    Raises:
        ServiceError: invalid, naming the field; too_large, for too many values in all.
    """
    _check_values(sum(text.count(",") for name, text in texts if name not in _TEXT_FIELDS))
    fields: dict[str, Any] = {}
    for name, text in texts:
        _add_field(fields, name, text)
    pictures = tuple(
        part if isinstance(part, bytes) else _picture(part, f"inputs[{i}]")
        for i, part in enumerate(inputs)
    )
    return _validated({**fields, "inputs": []}, kind), pictures


async def _split_form(
    request: Request, data: bytes
) -> tuple[list[bytes | str], list[tuple[str, str]]]:
    """The inputs, files as bytes, and all other fields, in their order."""

    async def replay() -> Message:
        return {"type": "http.request", "body": data, "more_body": False}

    _, options = parse_options_header(request.headers["content-type"])
    boundary = options.get(b"boundary", b"")
    if not boundary or not data.rstrip().endswith(b"--" + boundary + b"--"):
        raise invalid("malformed multipart body: it does not end with its closing boundary")
    # Nothing but the boundary: a charset would change how field names are read.
    headers = [(b"content-type", b'multipart/form-data; boundary="' + boundary + b'"')]
    scope = {**request.scope, "headers": headers}
    inputs: list[bytes | str] = []
    fields: list[tuple[str, str]] = []
    try:
        parsed = Request(scope, replay).form(
            max_files=_MAX_PARTS, max_fields=_MAX_PARTS, max_part_size=len(data) + 1
        )
        async with parsed as form:
            for given, value in form.multi_items():
                name = given or ""
                if isinstance(value, UploadFile):
                    if name != "inputs":
                        raise invalid(
                            f"unknown file field {shown(name)}; send files as 'inputs'", name[:100]
                        )
                    inputs.append(await value.read())
                elif name == "inputs":
                    inputs.append(value)
                else:
                    fields.append((name, value))
    except (MultiPartException, HTTPException) as error:
        reason = error.detail if isinstance(error, HTTPException) else error.message
        raise invalid(f"malformed multipart body: {reason}") from error
    return inputs, fields


def _add_field(fields: dict[str, Any], name: str, text: str) -> None:
    """A form field is text; what is not a text field is read as JSON, then typed as strictly."""
    value: Any = text
    if name not in _TEXT_FIELDS:
        try:
            value = from_json(text)
        except ValueError:
            value = text
        if name in _TEXT_LISTS and not isinstance(value, list):
            value = text
    if name in _LIST_FIELDS:
        fields.setdefault(name, []).extend(value if isinstance(value, list) else [value])
    elif name in fields:
        raise invalid(f"field {shown(name)} is given twice", name[:100])
    else:
        fields[name] = value


def _picture(text: str, param: str) -> bytes:
    """Base64 or a base64 data URI -> bytes."""
    head = text[:256].lstrip().lower()
    if head.startswith(("http://", "https://")):
        raise invalid("remote image URLs are refused; send the picture itself as base64", param)
    if head.startswith("data:"):
        meta, separator, text = text.partition(",")
        meta = meta.strip().lower()
        if not separator or not (meta.startswith("data:image/") and meta.endswith(";base64")):
            raise invalid("a data URI must be 'data:image/...;base64,...'", param)
    try:
        return base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError) as error:
        raise invalid(f"not base64: {error}", param) from error


def _explained(error: ValidationError) -> ServiceError:
    """The first problem as one sentence with the field's name."""
    first = error.errors(include_url=False, include_input=False, include_context=False)[0]
    param = _name(first["loc"])
    if param == "inputs" and first["type"] != "missing":
        return invalid(f"inputs must be a string or a list of at most {MAX_INPUTS} strings", param)
    return invalid(f"{param or 'body'}: {first['msg']}", param)


def _name(location: Iterable[int | str]) -> str | None:
    """`("radii", 1)` -> `radii[1]`; pydantic's names for branches of a union are left out."""
    name = ""
    for part in location:
        if isinstance(part, int):
            name += f"[{part}]"
        elif part not in _BRANCHES and not part.startswith("list["):
            name += f".{part}" if name else part
    return name or None
