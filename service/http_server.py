"""uvicorn as this process runs it: it neither handles signals nor writes a log of its own."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import uvicorn
from starlette.types import ASGIApp


class HttpServer(uvicorn.Server):
    """One application on one socket; one place, elsewhere, decides when the process ends.

    Args:
        app: served.
        grace_s: a client that stalls must not hold the end for longer.
        options: further ones of `uvicorn.Config`.
    """

    def __init__(self, app: ASGIApp, grace_s: float, **options: Any) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                log_config=None,
                access_log=False,
                lifespan="off",
                timeout_graceful_shutdown=int(grace_s),
                **options,
            )
        )

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """None are captured."""
        yield
