"""The two doors as a client sees them: one request out, one reply back, no exception ever."""

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import grpc
import httpx
import orjson

from service.bench.load.mix import RequestClass
from service.errors import ConfigurationError
from service.rpc.generated import fcs_pb2, fcs_pb2_grpc

# Beside the service's own deadline: whoever waits longer than this has lost the server.
_GRACE_S = 15.0


@dataclass(frozen=True, slots=True)
class Reply:
    """What came back.

    Attributes:
        code: HTTP status, gRPC status name, or the client's own error where no status came.
        selection, estimation: samples that an answer reports.
        retry_after_s: what a rejection asked to wait.
    """

    code: str
    selection: int = 0
    estimation: int = 0
    retry_after_s: float | None = None

    @property
    def outcome(self) -> str:
        """`answered`, `rejected` (the queue is full) or `failed` (anything else)."""
        if self.code in {"200", "OK"}:
            return "answered"
        return "rejected" if self.code in {"429", "RESOURCE_EXHAUSTED"} else "failed"


class RestDoor:
    """`POST /embed` as JSON. `route`: as `fcs_requests_total` calls it.

    Args:
        url: of the server.
        pictures: encoded; requests name them by index.
        timeout_ms: of every request.
    """

    route = "/embed"

    def __init__(self, url: str, pictures: Sequence[bytes], timeout_ms: int) -> None:
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
        timeout = httpx.Timeout(timeout_ms / 1000 + _GRACE_S)
        self._client = httpx.AsyncClient(base_url=url, limits=limits, timeout=timeout)
        self._encoded = [base64.b64encode(picture).decode() for picture in pictures]
        self._timeout_ms = timeout_ms

    async def send(self, kind: RequestClass, picture: int) -> Reply:
        """One request."""
        fields: dict[str, Any] = {"inputs": self._encoded[picture], "timeout_ms": self._timeout_ms}
        if kind.selection is not None:
            fields["selection_samples"] = kind.selection
        if kind.samples is not None:
            fields["samples"] = kind.samples
        if not kind.target:
            fields["target"] = None
        json = {"content-type": "application/json"}
        try:
            response = await self._client.post("/embed", content=orjson.dumps(fields), headers=json)
        except httpx.HTTPError as error:
            return Reply(type(error).__name__)
        code = str(response.status_code)
        if response.is_success:
            samples = orjson.loads(response.content)["data"][0]["certificate"]["samples"]
            return Reply(code, samples["selection"], samples["estimation"])
        wait = response.headers.get("retry-after")
        return Reply(code, retry_after_s=None if wait is None else float(wait))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *error: object) -> None:
        await self._client.aclose()


class RpcDoor:
    """`fcs.v1.Fcs/Embed`. `route`: as `fcs_requests_total` calls it.

    Args:
        address: host:port of the server.
        pictures, timeout_ms: as for `RestDoor`.
    """

    route = "/fcs.v1.Fcs/Embed"

    def __init__(self, address: str, pictures: Sequence[bytes], timeout_ms: int) -> None:
        options = [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)]
        self._channel = grpc.aio.insecure_channel(address, options=options)
        # The generated stub has no hints for both kinds of channel at once.
        self._embed: Any = fcs_pb2_grpc.FcsStub(self._channel).Embed
        self._pictures = pictures
        self._timeout_ms = timeout_ms

    async def send(self, kind: RequestClass, picture: int) -> Reply:
        """One request."""
        request = fcs_pb2.EmbedRequest(
            images=[self._pictures[picture]],
            selection_samples=kind.selection,
            samples=kind.samples,
            no_target=not kind.target,
            timeout_ms=self._timeout_ms,
        )
        try:
            answer = await self._embed(request, timeout=self._timeout_ms / 1000 + _GRACE_S)
        except grpc.aio.AioRpcError as error:
            trailers: dict[str, Any] = dict(error.trailing_metadata() or ())
            wait = trailers.get("retry-after-ms")
            seconds = None if wait is None else float(wait) / 1000
            return Reply(error.code().name, retry_after_s=seconds)
        samples = answer.data[0].certificate.samples
        return Reply("OK", samples.selection, samples.estimation)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *error: object) -> None:
        await self._channel.close()


Door = RestDoor | RpcDoor


def make_door(name: str, rest: str, rpc: str, pictures: Sequence[bytes], timeout_ms: int) -> Door:
    """The door called `rest` or `grpc`, still to be entered.

    Raises:
        ConfigurationError: any other name.
    """
    if name == "rest":
        return RestDoor(rest, pictures, timeout_ms)
    if name == "grpc":
        return RpcDoor(rpc, pictures, timeout_ms)
    raise ConfigurationError(f"no door {name!r}; there are rest and grpc")
