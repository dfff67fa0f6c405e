"""Bytes of a body -> (body of its kind, pictures), strictly typed; failures name their field."""

import base64
import binascii
from collections.abc import Iterable
from typing import Any, TypeVar

from pydantic import ValidationError
from pydantic_core import from_json

from service.errors import ServiceError, invalid, shown, too_large
from service.locations import Location, Origin, is_url, location
from service.rest.schemas import MAX_INPUTS, PictureBody, SamplingBody

# Values of one request: a parser that holds the interpreter must not hold it for seconds.
_MAX_VALUES = 1_000_000
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
Sent = bytes | Location  # a picture, or where it is
# Pydantic's names for branches of unions, which say nothing to a client.
_BRANCHES = {"str", "list[str]", "base64", "numbers", "text", "image", "image_url"}


def parse_json(
    data: bytes, kind: type[S], allowed: frozenset[Origin] = frozenset()
) -> tuple[S, tuple[Sent, ...]]:
    """Strictly typed JSON -> body and its pictures, or where they are.

    Args:
        data: the body.
        kind: what it must be.
        allowed: from where pictures may be fetched.

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
    return body, tuple(_picture(text, param, allowed) for param, text in body.encoded())


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
    inputs: list[bytes | str],
    texts: list[tuple[str, str]],
    kind: type[B],
    allowed: frozenset[Origin] = frozenset(),
) -> tuple[B, tuple[Sent, ...]]:
    """The parts of a form, files as bytes -> body and its pictures, or where they are.

    Raises:
        ServiceError: invalid, naming the field; too_large, for too many values in all.
    """
    _check_values(sum(text.count(",") for name, text in texts if name not in _TEXT_FIELDS))
    fields: dict[str, Any] = {}
    for name, text in texts:
        _add_field(fields, name, text)
    pictures = tuple(
        part if isinstance(part, bytes) else _picture(part, f"inputs[{i}]", allowed)
        for i, part in enumerate(inputs)
    )
    return _validated({**fields, "inputs": []}, kind), pictures


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


def _picture(text: str, param: str, allowed: frozenset[Origin]) -> Sent:
    """Base64 or a base64 data URI -> bytes; a URL -> the place, where that is allowed."""
    if is_url(text):
        return location(text, allowed, param)
    head = text[:256].lstrip().lower()
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
