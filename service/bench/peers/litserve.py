"""LitServe: requests batched by `LitAPI(max_batch_size, batch_timeout)`, in worker processes."""

from collections.abc import Sequence
from typing import Any

import litserve

from service.bench.peers.sampler import PATH, Arrangement, Sampler, configured


class Api(litserve.LitAPI):  # type: ignore[misc]  # not installed where types are checked
    """The methods that LitServe calls in each worker."""

    def __init__(self, arrangement: Arrangement) -> None:
        seconds = arrangement.wait_ms / 1000
        super().__init__(arrangement.together, batch_timeout=seconds, api_path=PATH)
        self._arrangement = arrangement

    def setup(self, device: str) -> None:
        """Load the model."""
        self._sampler = Sampler(self._arrangement)

    def decode_request(self, request: dict[str, Any]) -> dict[str, Any]:
        """Requests are taken as they come."""
        return request

    def predict(self, requests: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        """A batch."""
        return self._sampler.answer(requests)


def main() -> None:
    """Serve until terminated."""
    port, arrangement = configured()
    server = litserve.LitServer(
        Api(arrangement),
        accelerator="cpu",
        workers_per_device=arrangement.workers,
        timeout=False,
    )
    server.run(host="127.0.0.1", port=port, generate_client_file=False, log_level="warning")


if __name__ == "__main__":
    main()
