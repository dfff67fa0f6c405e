"""The files of an audit log, read while they are written: all of it checked, or one request found.

Lines that crashes cut off are skipped and counted, if the record after them was chained to them.
"""

import os
from collections.abc import Collection, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from service.audit import lines
from service.audit.files import MOST_TORN, is_begun, numbered
from service.audit.lines import FORMAT, Link, Record, digest, is_record
from service.errors import ServiceError, invalid, shown
from service.receipts.reading import Saved, parse

_PEEK = 64 * 1024
_NO_RECORD = "no record of an audit log"


@dataclass(slots=True)
class Report:
    """What a whole log is.

    Attributes:
        first: sequence of its first record; beyond 1 where older files are gone. 0: no record.
        last: sequence of its last record.
        end: digest of its last line; kept elsewhere, it shows what is cut off later.
        torn: lines that a crash cut off.
        missed: records that could not be written, and whose certificates were not issued.
        keys: that signed.
    """

    files: int
    records: int = 0
    receipts: int = 0
    torn: int = 0
    missed: int = 0
    first: int = 0
    last: int = 0
    end: str | None = None
    keys: set[str] = field(default_factory=set)


def is_audit_log(file: Path) -> bool:
    """Whether a file begins like one; False if it cannot be read."""
    try:
        with file.open("rb") as stream:
            return f'"format":"{FORMAT}"'.encode() in stream.readline(_PEEK)
    except OSError:
        return False


def check(file: Path, trusted: Collection[str] = ()) -> Report:
    """Check every line of a log, its full files first, and that none is missing between them.

    Args:
        file: that is written, or a full one, which is then checked alone.
        trusted: keys, one of which must have signed each line; none: whichever the lines name.

    Raises:
        ServiceError: invalid, naming the first line at fault.
    """
    report, before = Report(len(_files(file))), Link()
    last, torn, where = b"", list[bytes](), ""  # a record, the lines since that are none, and where
    for place, line in _lines(file):
        if not is_record(line):
            where = where if torn else place
            torn.append(line)
            if len(torn) > MOST_TORN:
                raise _at(where, _NO_RECORD)
            continue
        try:
            record = lines.check(line)
        except ServiceError as error:
            raise _at(place, error.message) from error
        if trusted and record.public_key not in trusted:
            raise _at(place, f"signed by another key: {record.public_key}")
        if torn:
            before = Link(before.sequence, digest(b"".join([last, *torn])))
            _were_torn(torn, where, record, before, report)
            torn = []
        _follows(record, before, place, report)
        _count(record, report)
        last, before = line, Link(record.sequence, digest(line))
    if not all(is_begun(one) for one in torn if one.endswith(b"\n")):
        raise _at(where, _NO_RECORD)
    report.torn += len(torn)
    report.end = before.digest
    return report


def _were_torn(torn: list[bytes], where: str, record: Record, before: Link, report: Report) -> None:
    """Only what the next record was chained to was there when that was written.

    What that was is not known of the first record that is kept of a longer log.
    """
    known = report.records or record.sequence == 1
    if record.previous != before.digest if known else not all(map(is_begun, torn)):
        raise _at(where, f"{_NO_RECORD}, and no line that a crash cut off")
    report.torn += len(torn)


def find(file: Path, request_id: str, index: int | None = None) -> Saved:
    """The receipt that was recorded of a request.

    Args:
        file: of a log; its full files are searched too.
        request_id: as it was told in `x-request-id`.
        index: which of its records, in their order; None where it has one only.

    Raises:
        ServiceError: invalid: there is none, there are several, it has no receipt, or the line is
            not as it was signed.
    """
    wanted = [
        (place, line)
        for place, line in _lines(file)
        if is_record(line) and lines.parse(line).request_id == request_id
    ]
    if not wanted:
        raise invalid(f"{file} has no record of a request {shown(request_id)}")
    if index is None and len(wanted) != 1:
        raise invalid(
            f"{file} has {len(wanted)} records of the request {shown(request_id)}: name one,"
            f" --item 0 to {len(wanted) - 1}"
        )
    if not 0 <= (index or 0) < len(wanted):
        raise invalid(f"no item {index}: the request has {len(wanted)} records in {file}")
    place, line = wanted[index or 0]
    try:
        record = lines.check(line)
        if record.receipt is None:
            raise invalid(f"the record, of the kind {record.kind!r}, has no receipt")
        return Saved(parse(record.receipt), None)
    except ServiceError as error:
        raise _at(place, error.message) from error


def _files(file: Path) -> list[Path]:
    try:
        found = [one for _, one in numbered(file)]
    except OSError as error:
        raise invalid(f"cannot read {file}: {error.strerror or error}") from error
    if file.exists():
        found.append(file)
    if not found:
        raise invalid(f"cannot read {file}: there is no such file")
    return found


def _lines(file: Path) -> Iterator[tuple[str, bytes]]:
    """All lines, each with its place in words.

    The file that is written is opened before the full ones are listed: it may become one of them.
    """
    reading = file
    try:
        with ExitStack() as stack:
            written = stack.enter_context(file.open("rb")) if file.exists() else None
            own = None if written is None else os.fstat(written.fileno())
            for _, full in numbered(file):
                reading = full
                if own is not None and os.path.samestat(full.stat(), own):
                    break  # those after it are newer still
                yield from _placed(full, full.open("rb"))
            if written is not None:
                yield from _placed(file, written)
    except OSError as error:
        raise invalid(f"cannot read {reading}: {error.strerror or error}") from error


def _placed(file: Path, stream: BinaryIO) -> Iterator[tuple[str, bytes]]:
    with stream:
        for number, line in enumerate(stream, 1):
            yield f"{file}, line {number}", line


def _follows(record: Record, before: Link, place: str, report: Report) -> None:
    if not report.records:
        if record.sequence == 1 and record.previous != before.digest:
            raise _at(place, "it is the first record, and names a line before it")
        return
    if record.sequence != before.sequence + 1:
        raise _at(
            place,
            f"record {record.sequence} comes after {before.sequence}: lines are missing or moved",
        )
    if record.previous != before.digest:
        raise _at(place, "the line before it is not the one that was there when it was written")


def _count(record: Record, report: Report) -> None:
    report.records += 1
    report.receipts += record.receipt is not None
    report.first = report.first or record.sequence
    report.last = record.sequence
    report.keys.add(record.public_key)
    if record.kind == "resumed" and record.result is not None:
        missed = record.result.get("missed")
        report.missed += missed if isinstance(missed, int) else 0


def _at(place: str, message: str) -> ServiceError:
    return invalid(f"{place}: {message}")
