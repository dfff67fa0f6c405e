"""The Prometheus metrics of one process; names are fixed in the README's table.

Labels come from fixed sets only, never from what a client sends.
"""

from typing import get_args

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
    generate_latest,
)

from service.changing import OUTCOMES
from service.errors import Kind
from service.types import Stage, Stopped

disable_created_metrics()  # type: ignore[no-untyped-call]

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)
_SAMPLES = (1, 10, 32, 100, 200, 500, 1000, 2000, 5000, 10_000, 30_000, 110_000)
_BOUNDS = (-0.5, 0, 0.25, 0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.95, 0.98, 0.99, 1)
# The shifts epsilon/sigma at which every certificate's bound is observed.
SHIFTS = (0.5, 1.0)
# How a change of models ends.
RELOADS = ("changed", "failed")
# Where the time of a sample goes.
PHASES = ("decode", "noise", "encode", "tally", "statistics")


class Metrics:
    """Counters of one service instance, in a registry of its own."""

    def __init__(self, version: str) -> None:
        self.registry = CollectorRegistry()
        r = self.registry
        self.requests = Counter(
            "fcs_requests_total", "Requests answered", ["route", "code"], registry=r
        )
        self.request_seconds = Histogram(
            "fcs_request_seconds",
            "Seconds from arrival to answer",
            ["route"],
            buckets=_SECONDS,
            registry=r,
        )
        self.requests_running = Gauge(
            "fcs_requests_running", "Requests in work over both doors", registry=r
        )
        self.api_keys_reloads = Counter(
            "fcs_api_keys_reloads_total",
            "Readings of a changed file of API keys",
            ["outcome"],
            registry=r,
        )
        self.tls_reloads = Counter(
            "fcs_tls_reloads_total", "Readings of changed TLS files", ["outcome"], registry=r
        )
        self.queue_seconds = Histogram(
            "fcs_queue_seconds",
            "Seconds a picture waited for its first sample",
            buckets=_SECONDS,
            registry=r,
        )
        self.answer_tokens = Counter("fcs_answer_tokens_total", "Tokens of answers", registry=r)
        self.answers_running = Gauge(
            "fcs_answers_running", "Answers accepted and not yet given", registry=r
        )
        self.pending_votes = Gauge(
            "fcs_pending_votes", "Votes on closed answers that wait for the language", registry=r
        )
        self.batch_samples = Histogram(
            "fcs_batch_samples",
            "Samples in a device batch",
            buckets=(1, 2, 4, 8, 12, 16, 32, 64, 128, 256),
            registry=r,
        )
        self.batch_fill_ratio = Gauge(
            "fcs_batch_fill_ratio",
            "Share of the last device batch that was not padding",
            registry=r,
        )
        self.samples = Counter("fcs_samples_total", "Samples computed", ["stage"], registry=r)
        self.samples_per_request = Histogram(
            "fcs_samples_per_request",
            "Estimation samples of a request",
            buckets=_SAMPLES,
            registry=r,
        )
        self.pending_samples = Gauge(
            "fcs_pending_samples", "Samples accepted and not yet computed", registry=r
        )
        self.jobs_running = Gauge(
            "fcs_jobs_running", "Pictures accepted and not yet answered", registry=r
        )
        self.rejections = Counter(
            "fcs_rejections_total", "Requests refused", ["reason"], registry=r
        )
        self.bound = Histogram(
            "fcs_bound",
            "Certified bound at a fixed epsilon/sigma",
            ["shift"],
            buckets=_BOUNDS,
            registry=r,
        )
        self.early_stops = Counter(
            "fcs_early_stops_total",
            "Finished certificates, by why sampling stopped",
            ["reason"],
            registry=r,
        )
        self.device_seconds = Counter(
            "fcs_device_seconds_total", "Seconds the device computed", registry=r
        )
        self.phase_seconds = Counter(
            "fcs_phase_seconds_total",
            "Seconds of processor or device time, by what they were spent on",
            ["phase"],
            registry=r,
        )
        self.device_restarts = Counter(
            "fcs_device_restarts_total", "Restarts of a dead device thread", registry=r
        )
        self.grpc_restarts = Counter(
            "fcs_grpc_restarts_total", "Times the gRPC door had closed and was opened", registry=r
        )
        self.batch_halvings = Counter(
            "fcs_batch_halvings_total", "Batch shapes halved for want of memory", registry=r
        )
        self.audit_records = Counter(
            "fcs_audit_records_total", "Records written to the audit log", registry=r
        )
        self.audit_failures = Counter(
            "fcs_audit_failures_total",
            "Records that could not be written, and whose answers were refused",
            registry=r,
        )
        self.device_memory = Gauge(
            "fcs_device_memory_bytes",
            "Memory held on the device (0 on a CPU, which has none of its own)",
            registry=r,
        )
        self.model_reloads = Counter(
            "fcs_model_reloads_total",
            "Changes of the models that are served, by how they ended",
            ["outcome"],
            registry=r,
        )
        build = Gauge("fcs_build_info", "Constant 1", ["version"], registry=r)
        build.labels(version=version).set(1)
        # Every series exists from the start, so that a rate never misses its first event.
        for stage in Stage:
            self.samples.labels(stage=stage.name.lower())
        for phase in PHASES:
            self.phase_seconds.labels(phase=phase)
        for outcome in OUTCOMES:
            self.api_keys_reloads.labels(outcome=outcome)
            self.tls_reloads.labels(outcome=outcome)
        for kind in Kind:
            self.rejections.labels(reason=kind.value)
        for reason in get_args(Stopped):
            self.early_stops.labels(reason=reason)
        for outcome in RELOADS:
            self.model_reloads.labels(outcome=outcome)
        for shift in SHIFTS:
            self.bound.labels(shift=str(shift))

    def render(self) -> bytes:
        """Prometheus text format."""
        return generate_latest(self.registry)
