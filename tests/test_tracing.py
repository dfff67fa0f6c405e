"""Spans in memory: batches link to all of their requests, failures are marked, off is off."""

import asyncio
import subprocess
import sys
import threading

import pytest
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from service import tracing
from service.config import Settings
from service.core import Core
from service.models import catalogue
from service.telemetry import Telemetry
from service.types import EmbedRequest
from tests.tiny import Rotation, picture, tiny_model

TRACES = [f"{i:032x}" for i in (1, 2)]


def run(scenario, ratio=1.0):
    """What `scenario(core)` leaves behind."""
    exporter = InMemorySpanExporter()
    telemetry = Telemetry(exporter, ratio)

    async def main():
        core = Core(Settings(drain_ms=5000))
        await core.start()
        try:
            await scenario(core)
        finally:
            await core.drain()

    try:
        asyncio.run(main())
    finally:
        telemetry.stop()
    return exporter.get_finished_spans()


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    encoder = Rotation()
    model = tiny_model(encoder=encoder, batch_size=16)
    monkeypatch.setattr(catalogue, "load_model", lambda *_: model)
    return encoder


def request(samples=50):
    return EmbedRequest(images=(picture(),), samples=samples, selection_samples=10, target=None)


async def asked(core, trace, sampled=True, samples=50):
    parent = {"traceparent": f"00-{trace}-{1:016x}-{int(sampled):02d}"}
    with tracing.serving("request", parent, {}):
        return await core.embed(request(samples))


def named(spans, name):
    return [span for span in spans if span.name == name]


def traces_of(batch):
    return {f"{link.context.trace_id:032x}" for link in batch.links}


def test_requests_that_share_a_batch_are_both_linked_to_it(tiny):
    async def together(core):
        free = threading.Event()
        tiny.fails_on = lambda _: not free.wait(20)
        # More than may be in flight before the second comes, however late that is.
        asking = asyncio.gather(*(asked(core, trace, samples=300) for trace in TRACES))
        while core.metrics.registry.get_sample_value("fcs_jobs_running") < len(TRACES):
            await asyncio.sleep(0.001)
        free.set()
        await asking

    spans = run(together)
    batches = named(spans, "device.batch")
    assert any(traces_of(batch) == set(TRACES) for batch in batches)
    samples = named(spans, "sample")
    assert {f"{span.context.trace_id:032x}" for span in samples} == set(TRACES)
    for span in samples:
        links = [
            link.attributes
            for batch in batches
            for link in batch.links
            if link.context.span_id == span.context.span_id
        ]
        assert sum(link["fcs.count"] for link in links) >= 60
        assert span.events[0].name == "started"
        assert "look" in [event.name for event in span.events]
        assert span.attributes["fcs.stopped"] in {"samples", "target", "infeasible"}
    looks = named(spans, "statistics")
    assert {look.parent.span_id for look in looks} == {span.context.span_id for span in samples}


def test_a_batch_is_kept_if_one_of_its_requests_is_and_links_to_that_one_alone():
    async def mixed(core):
        await asyncio.gather(asked(core, TRACES[0]), asked(core, TRACES[1], sampled=False))

    spans = run(mixed, ratio=0.0)
    assert {frozenset(traces_of(batch)) for batch in named(spans, "device.batch")} == {
        frozenset(TRACES[:1])
    }
    assert {f"{s.context.trace_id:032x}" for s in named(spans, "sample")} == set(TRACES[:1])


def test_the_ratio_decides_of_traces_that_begin_here():
    async def alone(core):
        with tracing.serving("request", {}, {}):
            await core.embed(request())

    assert run(alone, ratio=0.0) == ()
    assert len(named(run(alone, ratio=1.0), "request")) == 1


def test_a_picture_that_fails_marks_its_span_without_repeating_the_message(tiny):
    async def fails(core):
        tiny.error = RuntimeError("a secret of the client")
        tiny.fails_on = lambda pixels: True
        with pytest.raises(Exception, match=r"could not be computed|device"):
            await asked(core, TRACES[0])
        tiny.fails_on = None

    spans = run(fails)
    (sample,) = named(spans, "sample")
    assert not sample.status.is_ok
    assert sample.attributes["error.type"]
    assert any(not batch.status.is_ok for batch in named(spans, "device.batch"))
    assert "secret" not in "".join(span.to_json() for span in spans)


def test_a_span_is_marked_by_what_was_raised_inside():
    exporter = InMemorySpanExporter()
    telemetry = Telemetry(exporter, 1.0)
    with pytest.raises(KeyError), tracing.span("decode"):
        raise KeyError("x")
    telemetry.stop()
    (span,) = exporter.get_finished_spans()
    assert span.attributes["error.type"] == "KeyError"


def test_off_there_are_no_spans_and_the_sdk_is_not_loaded():
    code = (
        "import sys, service.server; from service import tracing;"
        "made = tracing.begin('sample', {}); assert not made.is_recording();"
        "assert not [n for n in sys.modules if n.startswith('opentelemetry.sdk')]"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_an_exporter_that_is_not_installed_is_told_with_what_to_install():
    code = (
        "import sys; sys.modules['opentelemetry.exporter.otlp.proto.http.trace_exporter'] = None;"
        "from service.telemetry import start; start('http://127.0.0.1:1', 1.0)"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False
    )
    assert "ConfigurationError: otlp_endpoint is set" in ended.stderr
    assert "pip install -e '.[otlp]'" in ended.stderr
