"""Mosec: requests batched by its Rust coordinator, for worker processes."""

import os
from collections.abc import Sequence
from typing import Any

import mosec

from service.bench.peers.sampler import PATH, Sampler, configured

_TIMEOUT_S = 600


class Peer(mosec.Worker):  # type: ignore[misc]  # not installed where types are checked
    """One worker; JSON in and out is mosec's own default."""

    def __init__(self) -> None:
        _, arrangement = configured()
        self._sampler = Sampler(arrangement)

    def forward(self, data: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        """A batch."""
        return self._sampler.answer(data)


def main() -> None:
    """Serve until terminated."""
    port, arrangement = configured()
    # mosec is configured by its command line or its environment.
    os.environ |= {
        "MOSEC_PORT": str(port),
        "MOSEC_ADDRESS": "127.0.0.1",
        "MOSEC_TIMEOUT": str(1000 * _TIMEOUT_S),
        "MOSEC_LOG_LEVEL": "warning",
    }
    server = mosec.Server()
    server.append_worker(
        Peer,
        num=arrangement.workers,
        max_batch_size=arrangement.together,
        max_wait_time=round(arrangement.wait_ms),
        timeout=_TIMEOUT_S,
        route=PATH,
    )
    server.run()


if __name__ == "__main__":
    main()
