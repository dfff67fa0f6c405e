"""Spans of OpenTelemetry, from the door to the device; nothing at all where no tracer is installed.

    request (server span)
      decode · answer
      sample, one for each picture <- linked - device.batch, one for each call on a device
        statistics, one for each look

A span says what kind of failure it saw, never a message: that might repeat what a client sent. The
SDK is known to `service.telemetry` alone.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager

from opentelemetry.context import Context
from opentelemetry.trace import INVALID_SPAN, Link, Span, SpanKind, StatusCode, Tracer
from opentelemetry.trace import set_span_in_context as within
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from service.errors import ServiceError

Attributes = Mapping[str, str | int | float | bool]
NONE = INVALID_SPAN
_W3C = TraceContextTextMapPropagator()
_tracer: Tracer | None = None


def install(tracer: Tracer | None) -> None:
    """Make spans with this tracer from here on; None: no more."""
    global _tracer  # noqa: PLW0603  # of the process, as the log is
    _tracer = tracer


def on() -> bool:
    """Whether anything is traced."""
    return _tracer is not None


@contextmanager
def span(name: str, attributes: Attributes | None = None, of: Span | None = None) -> Iterator[Span]:
    """What runs inside is a span, marked if it raises.

    Args:
        name: of the span.
        attributes: known from the start.
        of: its parent; None: the present span.
    """
    if _tracer is None:
        yield NONE
        return
    parent = None if of is None else within(of)
    with _current(_tracer, name, SpanKind.INTERNAL, attributes, parent) as made:
        try:
            yield made
        except Exception as error:
            failed(made, kind_of(error))
            raise


@contextmanager
def serving(name: str, headers: Mapping[str, str], attributes: Attributes) -> Iterator[Span]:
    """The span of a request, in the trace that its headers name (W3C `traceparent`).

    Whether it failed, the door says.
    """
    if _tracer is None:
        yield NONE
        return
    with _current(_tracer, name, SpanKind.SERVER, attributes, _W3C.extract(headers)) as made:
        yield made


def begin(name: str, attributes: Attributes) -> Span:
    """A span that somebody else ends."""
    return NONE if _tracer is None else _tracer.start_span(name, attributes=attributes)


def batch(
    name: str,
    seconds: float,
    attributes: Attributes,
    of: Sequence[tuple[Span, Attributes]],
    error: BaseException | None,
) -> None:
    """A span of work for several others, which are linked to it; made when the work is done.

    Args:
        name: of the span.
        seconds: that it took until now.
        attributes: of the span.
        of: whose work it was, and what belongs to the link; those that are not recorded are left
            out, and without any there is no span.
        error: how it failed.
    """
    if _tracer is None:
        return
    links = [Link(one.get_span_context(), known) for one, known in of if one.is_recording()]
    if not links:
        return
    now = time.time_ns()
    made = _tracer.start_span(
        name,
        context=Context(),
        attributes=attributes,
        links=links,
        start_time=now - int(seconds * 1e9),
    )
    if error is not None:
        failed(made, kind_of(error))
    made.end(now)


def failed(made: Span, kind: str) -> None:
    """Say of a span how it failed."""
    made.set_attribute("error.type", kind)
    made.set_status(StatusCode.ERROR)


def kind_of(error: BaseException) -> str:
    """What is told of a failure."""
    return error.kind.value if isinstance(error, ServiceError) else type(error).__name__


def _current(
    tracer: Tracer, name: str, kind: SpanKind, attributes: Attributes | None, parent: Context | None
) -> AbstractContextManager[Span]:
    return tracer.start_as_current_span(
        name,
        context=parent,
        kind=kind,
        attributes=attributes,
        record_exception=False,
        set_status_on_exception=False,
    )
