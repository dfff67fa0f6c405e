"""What every method does with a message and with its count."""

import time
from typing import Any

from grpc.aio import ServicerContext

from service import caller, usage
from service.config import Settings
from service.errors import too_large
from service.metrics import Metrics

Context = ServicerContext[Any, Any]
CANCELLED = "CANCELLED"


def check_size(message: bytes, settings: Settings) -> None:
    """The servicer's own limit; the library's lies above it.

    Raises:
        ServiceError: too_large.
    """
    most = settings.max_body_bytes
    if len(message) > most:
        raise too_large(f"the message has {len(message)} bytes; at most {most} are accepted")


def count(metrics: Metrics, route: str, code: str, began: float) -> None:
    """`fcs_requests_total` and `fcs_request_seconds` of a request that began then, monotonic."""
    asking, used = caller.present(), usage.present()
    if asking is not None and used is not None:
        used.client = asking.client  # for the line of the call, which is written further outside
    metrics.requests.labels(route=route, code=code).inc()
    metrics.request_seconds.labels(route=route).observe(time.monotonic() - began)
