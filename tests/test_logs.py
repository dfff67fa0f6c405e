"""Lines of both forms: one record is one line, whatever it holds."""

import json
import logging

import pytest

from service.caller import Caller, calling
from service.logs import JsonLines, TextLines, _note_circumstances, _repeats_nothing

EVIL = "x\n2026-01-01T00:00:00.000Z INFO service: forged\x1b[2J\u2028\u202e\r"


def line(formatter, message=EVIL, error=None, **fields):
    told = None if error is None else (type(error), error, None)
    record = logging.LogRecord("a.b", logging.WARNING, "f", 1, "%s", (message,), told)
    record.__dict__.update(fields)
    with calling(Caller("id-1", "key-1")):
        _note_circumstances(record)
    return formatter.format(record)


def test_a_json_line_is_one_line_with_who_asked_and_the_exception_as_a_field():
    made = line(JsonLines(), error=ValueError(EVIL), status=200, password="never")
    assert made.isascii()
    assert len(made.splitlines()) == 1
    told = json.loads(made)
    assert told["message"] == EVIL
    assert EVIL in told["exception"]
    assert (told["level"], told["logger"], told["status"]) == ("warning", "a.b", 200)
    assert (told["request_id"], told["client"]) == ("id-1", "key-1")
    assert "never" not in made


def test_a_text_line_cannot_be_forged_nor_a_line_of_a_traceback():
    made = line(TextLines(), error=ValueError(EVIL), route=EVIL)
    head, *below = made.split("\n")
    assert "a.b: x\\n2026" in head
    assert head.endswith("request_id=id-1 client=key-1 route=" + head.split("route=")[1])
    assert below
    assert all(part.startswith("  | ") for part in below)
    for control in "\x1b\u2028\u202e\r":
        assert control not in made


@pytest.mark.parametrize("formatter", [JsonLines(), TextLines()], ids=["json", "text"])
def test_time_is_utc_to_the_millisecond(formatter):
    record = logging.LogRecord("a", logging.INFO, "f", 1, "m", (), None)
    record.created = 1_800_000_000.1239
    assert "2027-01-15T08:00:00.123Z" in formatter.format(record)


def test_what_grpc_repeats_of_metadata_is_in_no_line():
    def of(message):
        return logging.LogRecord(
            "grpc._cython.cygrpc", logging.ERROR, "f", 1, message, (b"k",), None
        )

    assert not _repeats_nothing(of("Invalid encoding on %s"))
    assert _repeats_nothing(of("the server ended: %s"))
