"""The log of the process: every line of every library through one handler, in one of two forms.

The standard `logging` stays what everybody calls. A line says who asked (`service.caller`) and in
which span it fell, where there is one. Nothing that a client sends can begin a line of its own.
"""

import logging
import os
import re
import sys
import threading
from datetime import UTC, datetime
from typing import Any, Literal

from opentelemetry import trace
from pythonjsonlogger.json import JsonFormatter

from service.caller import present

Format = Literal["text", "json"]
# What a line may hold beside its message: our own fields. A library's extras are left out, as
# nobody promised that they hold no secret.
FIELDS = (
    "request_id",
    "client",
    "trace_id",
    "span_id",
    "method",
    "route",
    "status",
    "ms",
    "samples",
    "bytes_in",
    "bytes_out",
)
# Below warnings these libraries tell what passes through them, which may be a client's.
_TALKATIVE = (
    "PIL",
    "asyncio",
    "filelock",
    "grpc",
    "hpack",
    "httpcore",
    "httpx",
    "multipart",
    "opentelemetry",
    "python_multipart",
    "urllib3",
    "websockets",
)
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def configure(form: Format, level: str) -> None:
    """Send everything that is logged from here on to standard error, in this form.

    Args:
        form: of a line.
        level: least severity; libraries that may repeat what a client sent tell no less than a
            warning, whatever it is.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines() if form == "json" else TextLines())
    handler.addFilter(_note_circumstances)
    logging.setLoggerClass(_Gathered)
    for logger in list(logging.root.manager.loggerDict.values()):
        if isinstance(logger, logging.Logger):
            logger.handlers.clear()
            logger.propagate = True
    logging.root.handlers[:] = [handler]
    logging.root.setLevel(level.upper())
    for name in _TALKATIVE:
        logging.getLogger(name).setLevel(max(logging.WARNING, logging.root.level))
    logging.getLogger("grpc._cython.cygrpc").addFilter(_repeats_nothing)
    logging.getLogger("uvicorn.access").disabled = True  # it tells whole paths, queries included
    logging.captureWarnings(True)
    sys.excepthook = _uncaught
    threading.excepthook = _uncaught_in_thread
    # gRPC's core writes to standard error by itself; what matters of it reaches Python as errors.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")


class JsonLines(JsonFormatter):
    """One JSON object a line, ASCII alone."""

    def add_fields(
        self, log_data: dict[str, Any], record: logging.LogRecord, message_dict: dict[str, Any]
    ) -> None:
        """The fields of a line; the traceback of an exception is one of them."""
        log_data |= {
            "timestamp": timestamp(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        log_data |= _fields(record)
        if "exc_info" in message_dict:
            log_data["exception"] = message_dict["exc_info"]
        if "stack_info" in message_dict:
            log_data["stack"] = message_dict["stack_info"]


class TextLines(logging.Formatter):
    """One line for a person; the lines of a traceback are set in, so that none passes for another.

    `2026-01-31T23:59:59.123Z INFO service.server: message [request_id=...]`
    """

    def format(self, record: logging.LogRecord) -> str:
        """The line, and those of its traceback."""
        head = f"{timestamp(record)} {record.levelname} {record.name}: "
        line = head + escaped(record.getMessage())
        if found := _fields(record):
            line += f" [{' '.join(f'{k}={escaped(str(v))}' for k, v in found.items())}]"
        traces = [self.formatException(record.exc_info)] if record.exc_info else []
        traces += [record.stack_info] if record.stack_info else []
        below = [f"  | {escaped(part)}" for text in traces for part in text.split("\n")]
        return "\n".join([line, *below])


def timestamp(record: logging.LogRecord) -> str:
    """ISO 8601, UTC, to the millisecond."""
    when = datetime.fromtimestamp(record.created, UTC)
    return f"{when.isoformat(timespec='milliseconds').removesuffix('+00:00')}Z"


def escaped(text: str) -> str:
    r"""The text without anything that moves a cursor, or turns or ends a line: `\n` as `\\n`."""
    return _CONTROL.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def _note_circumstances(record: logging.LogRecord) -> bool:
    """Who asked, and in which span this falls; what the record says itself stands."""
    caller, span = present(), trace.get_current_span().get_span_context()
    found: dict[str, str | None] = {}
    if caller is not None:
        found = {"request_id": caller.request_id, "client": caller.client}
    if span.is_valid:
        found |= {"trace_id": f"{span.trace_id:032x}", "span_id": f"{span.span_id:016x}"}
    for name, value in found.items():
        if getattr(record, name, None) is None:
            setattr(record, name, value)
    return True


def _repeats_nothing(record: logging.LogRecord) -> bool:
    """Not what gRPC says of metadata that is not UTF-8: it repeats it, which may be a key."""
    return not str(record.msg).startswith("Invalid encoding on")


def _fields(record: logging.LogRecord) -> dict[str, Any]:
    return {name: v for name in FIELDS if (v := getattr(record, name, None)) is not None}


class _Gathered(logging.Logger):
    """A logger whose lines reach the root alone, whatever the library that made it wants."""

    def __init__(self, name: str, level: int = logging.NOTSET) -> None:
        super().__init__(name, level)

    def addHandler(self, hdlr: logging.Handler) -> None:  # noqa: N802  # its name in `logging`
        """Lines have one way out."""

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, True if name == "propagate" else value)


def _uncaught(kind: Any, error: Any, traceback: Any) -> None:
    if issubclass(kind, KeyboardInterrupt):
        sys.__excepthook__(kind, error, traceback)
        return
    logging.getLogger("service").critical("uncaught", exc_info=(kind, error, traceback))


def _uncaught_in_thread(args: threading.ExceptHookArgs) -> None:
    if args.exc_value is None or issubclass(args.exc_type, SystemExit):
        return
    name = "a thread" if args.thread is None else args.thread.name
    logging.getLogger("service").critical(
        "uncaught in %s", name, exc_info=(args.exc_type, args.exc_value, args.exc_traceback)
    )
