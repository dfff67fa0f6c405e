"""The OpenTelemetry SDK: which spans are sampled, and where they are sent.

Imported only where traces are asked for.
"""

import logging
import threading
from collections.abc import Sequence
from importlib.util import find_spec
from urllib.parse import urlsplit

from opentelemetry.context import Context
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter
from opentelemetry.sdk.trace.sampling import (
    ALWAYS_OFF,
    ALWAYS_ON,
    ParentBased,
    Sampler,
    SamplingResult,
    TraceIdRatioBased,
)
from opentelemetry.trace import Link, SpanKind, TraceState
from opentelemetry.util.types import Attributes

from service import __version__, tracing
from service.errors import ConfigurationError

_log = logging.getLogger(__name__)
_PATH = "/v1/traces"
_EXPORTER = "opentelemetry.exporter.otlp"
_EXPORT_S = 5.0  # longest wait for the collector, each time
_FLUSH_S = 5.0  # longest wait for it at the end


class Telemetry:
    """Spans are made from here until `stop`, and sent in the background.

    Args:
        exporter: where they are sent; at most 2048 wait for it, more are dropped with a warning.
        ratio: share of the traces that begin here.
    """

    def __init__(self, exporter: SpanExporter, ratio: float) -> None:
        self._provider = TracerProvider(
            sampler=_OfItsLinks(ratio),
            resource=Resource.create({"service.name": "fcs-serve", "service.version": __version__}),
            shutdown_on_exit=False,
        )
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        tracing.install(self._provider.get_tracer("fcs-serve", __version__))

    def stop(self) -> None:
        """Send what is left, within seconds; blocks."""
        tracing.install(None)
        # Of its own, as a collector that does not answer must not hold the end of the process.
        flushing = threading.Thread(target=self._provider.shutdown, name="fcs-flush", daemon=True)
        flushing.start()
        flushing.join(_FLUSH_S)
        if flushing.is_alive():
            _log.warning("the last spans were not sent: the collector has not answered")


class _OfItsLinks(Sampler):
    """As the parent says; where there is none, as the links say; else by the ratio."""

    def __init__(self, ratio: float) -> None:
        self._otherwise = ParentBased(TraceIdRatioBased(ratio))

    def should_sample(
        self,
        parent_context: Context | None,
        trace_id: int,
        name: str,
        kind: SpanKind | None = None,
        attributes: Attributes = None,
        links: Sequence[Link] | None = None,
        trace_state: TraceState | None = None,
    ) -> SamplingResult:
        """Whether a span is recorded and sent."""
        chosen: Sampler = self._otherwise
        if links:
            chosen = (
                ALWAYS_ON if any(one.context.trace_flags.sampled for one in links) else ALWAYS_OFF
            )
        return chosen.should_sample(
            parent_context, trace_id, name, kind, attributes, links, trace_state
        )

    def get_description(self) -> str:
        """For people."""
        return "OfItsLinks"


def start(endpoint: str, ratio: float) -> Telemetry:
    """Send spans to a collector, OTLP over HTTP.

    What it needs beside them, such as headers, is read from OpenTelemetry's own variables.

    Args:
        endpoint: URL; without a path, that of the standard is added.
        ratio: as in `Telemetry`.

    Raises:
        ConfigurationError: the exporter is not installed.
    """
    if find_spec("opentelemetry.exporter") is None or find_spec(_EXPORTER) is None:
        raise _missing()
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    except ImportError as error:
        raise _missing() from error
    url = endpoint if urlsplit(endpoint).path.strip("/") else endpoint.rstrip("/") + _PATH
    return Telemetry(OTLPSpanExporter(url, timeout=_EXPORT_S), ratio)


def _missing() -> ConfigurationError:
    return ConfigurationError(
        "otlp_endpoint is set, and what sends spans is not installed:"
        " pip install -e '.[otlp]' in the project's folder (opentelemetry-exporter-otlp-proto-http)"
    )
