"""A saved file -> its receipt; each way to be malformed has its own sentence."""

import base64
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from pydantic import ValidationError

from service.errors import ServiceError, invalid, shown
from service.receipts.receipt import Receipt, embedding_digest

# A whole response with large embeddings fits; nothing that would exhaust the memory does.
MOST_BYTES = 64 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Saved:
    """A receipt, and the item of the response that it was saved in, if it was."""

    receipt: Receipt
    item: dict[str, Any] | None


def read(file: Path, index: int | None = None) -> Saved:
    """Read a receipt, or one item of a saved response of `POST /embed`.

    Args:
        file: JSON; at most `MOST_BYTES`.
        index: which item of a response; None where it has one only.

    Raises:
        ServiceError: invalid, naming the file and what is wrong with it.
    """
    try:
        with file.open("rb") as stream:
            data = stream.read(MOST_BYTES + 1)
    except OSError as error:
        raise invalid(f"cannot read {file}: {error.strerror or error}") from error
    if len(data) > MOST_BYTES:
        raise invalid(f"{file} is too large for a receipt: over {MOST_BYTES} bytes")
    try:
        value = json_value(data)
        if isinstance(value, dict) and isinstance(failure := value.get("error"), dict):
            raise invalid(f"a response that is an error: {shown(str(failure.get('message')))}")
        item = _item(value, index)
        return Saved(parse(value if item is None else item["receipt"]), item)
    except ServiceError as error:
        raise invalid(f"{file}: {error.message}") from error


def parse(value: Any) -> Receipt:
    """A JSON value -> receipt.

    Raises:
        ServiceError: invalid, naming the first field at fault.
    """
    if not isinstance(value, dict):
        raise invalid("not a receipt: it is no JSON object")
    try:
        return Receipt.model_validate_json(json.dumps(value))
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
    name = _name(first["loc"])
    if first["type"] == "missing":
        raise invalid(f"not a receipt: field {name} is missing")
    if first["type"] == "extra_forbidden":
        raise invalid(f"not a receipt: unknown field {name}")
    if name == "format":
        raise invalid(
            f"a receipt of another format ({shown(str(value['format']))}): not known here"
        )
    raise invalid(f"not a receipt: {name or 'it'}: {first['msg']}")


def contradictions(saved: Saved) -> list[str]:
    """What a saved response says otherwise than its own receipt."""
    if saved.item is None:
        return []
    found = []
    certificate = saved.receipt.model_dump(mode="json")["certificate"]
    if saved.item.get("certificate") != certificate:
        found.append("the certificate beside the receipt is not the receipt's")
    if _digest(saved.item.get("embedding")) != saved.receipt.embedding:
        found.append("the embedding beside the receipt is not the receipt's")
    return found


def _digest(embedding: Any) -> str | None:
    try:
        if isinstance(embedding, str):
            return embedding_digest(base64.b64decode(embedding, validate=True))
        with np.errstate(over="ignore"):
            return embedding_digest(np.array(embedding, "<f4").tobytes())
    except (ValueError, TypeError, OverflowError):
        return None


def json_value(data: bytes) -> Any:
    """JSON in which every name stands once: two readers must not see two values.

    Raises:
        ServiceError: invalid.
    """
    try:
        return json.loads(data.decode(), object_pairs_hook=_once, parse_constant=_refuse_constant)
    except RecursionError as error:
        raise invalid("not a receipt: nested too deeply") from error
    except ValueError as error:
        raise invalid(f"not JSON: {error}") from error


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise invalid(f"not a receipt: {shown(name)} is given twice")
        found[name] = value
    return found


def _refuse_constant(name: str) -> NoReturn:
    raise invalid(f"not JSON: {name} is no number there")


def _item(value: Any, index: int | None) -> dict[str, Any] | None:
    """The wanted item of a response; None when the value is no response."""
    items = value.get("data") if isinstance(value, dict) else None
    if not isinstance(items, list):
        if index is not None:
            raise invalid("--item picks from a saved response, and this is none")
        return None
    if index is None and len(items) != 1:
        raise invalid(f"a response with {len(items)} items: name one, --item 0 to {len(items) - 1}")
    place = index or 0
    if not 0 <= place < len(items):
        raise invalid(f"no item {place}: the response has {len(items)}")
    item = items[place]
    if not isinstance(item, dict) or item.get("receipt") is None:
        raise invalid(f'item {place} has no receipt: the request must say "receipt": true')
    return item


def _name(location: tuple[int | str, ...]) -> str:
    """`("certificate", "bounds", 0, "bound")` -> `certificate.bounds[0].bound`."""
    name = ""
    for part in location:
        if isinstance(part, int):
            name += f"[{part}]"
        else:
            name += f".{part}" if name else part[:100]
    return name
