"""One record of the audit log as one line, chained to the line before it.

A line is the RFC 8785 form of its values, signed like a receipt. `previous` is the digest of the
bytes of the record before and of what crashes left of lines after it, so that no line between two
others can be edited, taken out or moved. What was cut off at the end shows only against a digest
that was kept elsewhere.
"""

import hashlib
import json
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from pydantic import Field, ValidationError

from service.errors import ServiceError, invalid
from service.forms import Form, Printable
from service.receipts.canonical import canonical
from service.receipts.reading import json_value
from service.receipts.receipt import Digest, sign
from service.receipts.signing import Signer, matches

FORMAT: Literal["fcs-audit/1"] = "fcs-audit/1"
# embedding, label, answer: a certificate that was issued, and of what. resumed: records could not
# be written for a while, and now they can.
Kind = Literal["embedding", "label", "answer", "resumed"]


class Record(Form):
    """All of it is signed but `signature` itself."""

    format: Literal["fcs-audit/1"]
    sequence: int = Field(ge=1, description="of the line, from 1 on")
    previous: Digest | None = Field(
        description="of the record before, and of lines after it that crashes cut off; null: the"
        " first"
    )
    time: Printable = Field(max_length=40, description="UTC, ISO 8601")
    request_id: Printable | None = Field(max_length=128)
    client: Printable | None = Field(max_length=200, description="name of its API key")
    route: Printable | None = Field(max_length=200)
    kind: Kind
    item: int = Field(ge=0, description="which picture of the request; 0 for an answer's own")
    receipt: dict[str, Any] | None = Field(description="of the picture's embedding")
    result: dict[str, Any] | None = Field(description="what else was certified")
    public_key: str = Field(pattern=r"^[0-9a-f]{64}$")
    signature: str = Field(pattern=r"^[0-9a-f]{128}$")


@dataclass(frozen=True, slots=True)
class Entry:
    """What is to be recorded.

    Attributes:
        item: which picture of the request.
        receipt: JSON text; None where there is none.
        result: what else was certified, JSON values.
    """

    kind: Kind
    item: int
    receipt: str | None
    result: dict[str, Any] | None


@dataclass(frozen=True, slots=True)
class Origin:
    """Whose request it was."""

    request_id: str | None
    client: str | None
    route: str | None


@dataclass(frozen=True, slots=True)
class Link:
    """The end of a chain.

    Attributes:
        sequence: of its last record; 0 before the first.
        digest: of its last line; None before the first.
    """

    sequence: int = 0
    digest: str | None = None


def write(
    entry: Entry, origin: Origin, when: datetime, after: Link, signer: Signer
) -> tuple[bytes, Link]:
    """The line of an entry, with its line feed, and the chain's new end."""
    fields = {
        "format": FORMAT,
        "sequence": after.sequence + 1,
        "previous": after.digest,
        "time": f"{when.isoformat(timespec='milliseconds').removesuffix('+00:00')}Z",
        "request_id": origin.request_id,
        "client": origin.client,
        "route": origin.route,
        "kind": entry.kind,
        "item": entry.item,
        "receipt": None if entry.receipt is None else json.loads(entry.receipt),
        "result": entry.result,
    }
    line = sign(fields, signer).encode() + b"\n"
    return line, Link(after.sequence + 1, digest(line))


def digest(line: bytes) -> str:
    """Of a line without its line feed."""
    whole = line.removesuffix(b"\n")
    return f"sha256:{hashlib.sha256(whole).hexdigest()}"


def parse(line: bytes) -> Record:
    """A line -> its record; its signature is not checked.

    Raises:
        ServiceError: invalid.
    """
    value = json_value(line)
    if not isinstance(value, dict) or value.get("format") != FORMAT:
        raise invalid(f"no record of an audit log ({FORMAT})")
    try:
        return Record.model_validate(value)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        where = ".".join(str(part)[:100] for part in first["loc"])
        raise invalid(f"no record of an audit log: {where}: {first['msg']}") from error


def check(line: bytes) -> Record:
    """A line -> its record, exactly as the key that it names signed it, its receipt's own included.

    Raises:
        ServiceError: invalid.
    """
    record = parse(line)
    value = json_value(line)
    if canonical(value) != line.removesuffix(b"\n"):
        raise invalid("the line is not written as it was signed")
    if not _signed(value):
        raise invalid("signature does not match: the line was changed, or another key signed it")
    if record.receipt is not None and not _signed(record.receipt):
        raise invalid("the signature of its receipt does not match")
    return record


def is_record(line: bytes) -> bool:
    """Whether a line can be read at all; one that a crash cut off cannot."""
    try:
        parse(line)
    except ServiceError:
        return False
    return True


def _signed(value: dict[str, Any]) -> bool:
    key, signature = value.get("public_key"), value.get("signature")
    if not isinstance(key, str) or not isinstance(signature, str):
        return False
    signed = {name: inner for name, inner in value.items() if name != "signature"}
    return matches(key, signature, canonical(signed))
