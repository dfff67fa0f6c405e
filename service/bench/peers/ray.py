"""Ray Serve: requests batched by `@serve.batch` inside each replica."""

import asyncio
import os
import signal
from typing import Any

import ray
from ray import serve
from starlette.requests import Request

from service.bench.peers.sampler import PATH, Arrangement, Sampler, configured

_MOST_ONGOING = 64  # of a replica; Ray's default of 5 would starve the batches


@serve.deployment(max_ongoing_requests=_MOST_ONGOING, ray_actor_options={"num_cpus": 1})
class Peer:
    """One replica."""

    def __init__(self, arrangement: Arrangement) -> None:
        self._sampler = Sampler(arrangement)
        self._together.set_max_batch_size(arrangement.together)
        self._together.set_batch_wait_timeout_s(arrangement.wait_ms / 1000)

    @serve.batch  # type: ignore[untyped-decorator]  # ray is not installed where types are checked
    async def _together(self, requests: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return await asyncio.to_thread(self._sampler.answer, requests)

    async def __call__(self, request: Request) -> dict[str, Any]:
        """One HTTP request."""
        answer: dict[str, Any] = await self._together(await request.json())
        return answer


def main() -> None:
    """Serve until terminated, on this machine alone."""
    port, arrangement = configured()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    ray.init(
        num_cpus=arrangement.workers,
        include_dashboard=False,
        log_to_driver=False,
        _node_ip_address="127.0.0.1",
    )
    serve.start(http_options={"host": "127.0.0.1", "port": port})
    try:
        replicas: Any = Peer  # what the decorator makes of it
        app = replicas.options(num_replicas=arrangement.workers).bind(arrangement)
        serve.run(app, route_prefix=PATH, blocking=True)
    finally:
        serve.shutdown()
        ray.shutdown()


if __name__ == "__main__":
    main()
