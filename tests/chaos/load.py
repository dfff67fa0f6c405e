"""Clients of both doors that ask without a pause, and how every one of their requests ended.

`answered`: with certificates whose receipts are signed by the service's key and say what the answer
says. `refused`: with a status and a reason in the service's own form. `unreached`: nobody listened.
`broken`: anything else; only a process that was killed may leave those.
"""

import base64
import io
import threading
import time
import uuid
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Literal

import grpc
import httpx
from PIL import Image

from service.receipts.reading import parse
from service.rpc.generated import fcs_pb2 as pb
from service.rpc.generated import fcs_pb2_grpc

COUNTS = {"samples": 48, "selection_samples": 8}
_PATIENCE_S = 60.0
_REFUSALS = {429: "overloaded", 503: "unavailable", 504: "deadline_exceeded"}
_CODES = {"RESOURCE_EXHAUSTED", "UNAVAILABLE", "DEADLINE_EXCEEDED"}
Kind = Literal["answered", "refused", "unreached", "broken"]


@dataclass(frozen=True)
class Ended:
    """One request."""

    kind: Kind
    code: str
    request_id: str
    began: float
    seconds: float
    detail: str = ""


@dataclass
class Load:
    """Clients, half of them of each door, from `start` to `stop`.

    Attributes:
        rest, grpc: addresses.
        public_key: that every receipt must be signed with.
        clients: that ask at the same time.
        counts: of samples.
    """

    rest: str
    grpc: str
    public_key: str
    clients: int = 4
    counts: dict = field(default_factory=lambda: dict(COUNTS))
    ended: list[Ended] = field(default_factory=list)
    _over: threading.Event = field(default_factory=threading.Event)

    def start(self):
        self._over.clear()
        self._pool = ThreadPoolExecutor(self.clients)
        self._running = [self._pool.submit(self._client, n) for n in range(self.clients)]
        return self

    def stop(self):
        """All ends; a client that hangs fails here."""
        self._over.set()
        for running in self._running:
            running.result(2 * _PATIENCE_S)
        self._pool.shutdown()
        return self.ended

    def leave(self):
        """Whatever happened: no client asks anything more."""
        self._over.set()

    def kinds(self):
        return Counter(one.kind for one in self.ended)

    def wait_for(self, kind, count, seconds=60.0):
        end = time.monotonic() + seconds
        goal = self.kinds()[kind] + count
        while self.kinds()[kind] < goal:
            assert time.monotonic() < end, f"not {count} more {kind}: {self.kinds()}"
            time.sleep(0.05)

    def _client(self, number):
        ask = self.ask_rest if number % 2 else self.ask_grpc
        while not self._over.is_set():
            one = ask(number)
            self.ended.append(one)
            if one.kind != "answered":
                time.sleep(0.1)  # as a client would

    def ask_rest(self, number):
        name, began = uuid.uuid4().hex, time.monotonic()
        body = {"inputs": base64.b64encode(png(number)).decode(), "receipt": True, **self.counts}
        kind, code, detail = "broken", "", ""
        try:
            # A connection each: a kept one may be closed by the other side at any time, rightly.
            with httpx.Client(base_url=self.rest, timeout=_PATIENCE_S) as http:
                answer = http.post("/embed", json=body, headers={"x-request-id": name})
            code = str(answer.status_code)
            if answer.status_code == 200:
                detail = self._wrong(answer.json()["data"][0])
                kind = "broken" if detail else "answered"
            elif _REFUSALS.get(answer.status_code) == answer.json()["error"]["type"]:
                clean = answer.status_code != 429 or int(answer.headers["retry-after"]) >= 1
                kind = "refused" if clean else "broken"
        except httpx.ConnectError:
            kind, code = "unreached", "connect"
        except httpx.TransportError as error:
            code = type(error).__name__
        return Ended(kind, code, name, began, time.monotonic() - began, detail)

    def ask_grpc(self, number):
        name, began = uuid.uuid4().hex, time.monotonic()
        request = pb.EmbedRequest(images=[png(number)], receipt=True, **self.counts)
        kind, detail = "broken", ""
        options = [("grpc.use_local_subchannel_pool", 1)]
        with grpc.insecure_channel(self.grpc, options=options) as channel:
            try:
                answer = fcs_pb2_grpc.FcsStub(channel).Embed(
                    request, timeout=_PATIENCE_S, metadata=(("x-request-id", name),)
                )
                code = "OK"
                receipt = parse_receipt(answer.data[0].receipt)
                detail = "" if receipt.signed_by(self.public_key) else "signature"
                kind = "broken" if detail else "answered"
            except grpc.RpcError as error:
                code, detail = error.code().name, error.details() or ""
                ours = ("x-request-id", name) in (error.initial_metadata() or ())
                if code in _CODES and ours:
                    kind = "refused"
                elif code == "UNAVAILABLE":
                    kind = "unreached" if "connect" in detail.lower() else "broken"
        return Ended(kind, code, name, began, time.monotonic() - began, detail)

    def _wrong(self, item):
        """What an answer says that its receipt does not; empty if nothing."""
        receipt = parse(item["receipt"])
        if not receipt.signed_by(self.public_key):
            return "signature"
        if receipt.model_dump(mode="json")["certificate"] != item["certificate"]:
            return "certificate"
        return ""


def parse_receipt(text):
    import json

    return parse(json.loads(text))


def png(number):
    stream = io.BytesIO()
    colour = (37 * number % 256, 200 - 11 * number % 200, 60)
    Image.new("RGB", (32, 32), colour).save(stream, "PNG")
    return stream.getvalue()
