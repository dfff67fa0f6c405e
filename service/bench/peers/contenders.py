"""fcs-serve and its peers as the bench sees them: start, what to send, what comes back."""

import importlib.metadata
import importlib.util
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import httpx
import orjson

from service.bench.peers.sampler import PATH, Arrangement, Ask, Way
from service.bench.processes import child, fcs_server, free_port
from service.config import PREFIX, Settings

TIMEOUT_S = 600.0
FCS = "fcs-serve"
JSON = {"content-type": "application/json"}
# Name -> the distribution it needs; each is a module beside this one.
PEERS: dict[str, str] = {"plain": "fastapi", "litserve": "litserve", "mosec": "mosec", "ray": "ray"}
# `target` stops early, which fcs-serve alone can.
AnyWay = Literal["target", Way]


@dataclass(frozen=True, slots=True)
class Question:
    """One request to be put to any contender.

    Attributes:
        ask: for peers; its `samples` is what `fixed` and `paper` draw.
        ceiling: most estimation samples where sampling may stop early.
        bound: the target.
    """

    ask: Ask
    ceiling: int
    bound: float

    def body(self, contender: str, way: AnyWay) -> bytes:
        """The request's JSON."""
        if contender != FCS:
            return orjson.dumps(asdict(self.ask))
        fields: dict[str, Any] = {
            "inputs": self.ask.inputs,
            "sigma": self.ask.sigma,
            "radii": [self.ask.radius],
            "selection_samples": self.ask.selection,
            "confidence": self.ask.confidence,
            "timeout_ms": round(1000 * TIMEOUT_S),
            "samples": self.ask.samples,
            "target": None,
        }
        if way == "target":
            target = {"radius": self.ask.radius, "bound": self.bound}
            fields |= {"samples": self.ceiling, "target": target}
        return orjson.dumps(fields)

    def drawing(self, way: Way, samples: int) -> "Question":
        """The same with another way and number of samples."""
        return replace(self, ask=replace(self.ask, way=way, samples=samples))


@dataclass(frozen=True, slots=True)
class Answer:
    """What a contender proved: -1 is vacuous. `samples`: selection and estimation."""

    bound: float
    samples: int


def parse_answer(contender: str, content: bytes) -> Answer:
    """The answer in a response's body."""
    found = orjson.loads(content)
    if contender != FCS:
        return Answer(found["bound"], found["samples"])
    certificate = found["data"][0]["certificate"]
    return Answer(certificate["bounds"][0]["bound"], sum(certificate["samples"].values()))


def missing(peer: str) -> str | None:
    """The distribution that a peer lacks here; None if it can run."""
    needed = PEERS[peer]
    return None if importlib.util.find_spec(needed) else needed


def version(peer: str) -> str:
    """Of the distribution that a peer stands on."""
    return importlib.metadata.version(PEERS[peer])


@contextmanager
def running(
    contender: str, settings: Settings, arrangement: Arrangement, first: Question
) -> Iterator[str]:
    """Start a contender, wait for its answer to a first question, and give its URL.

    Args:
        contender: `FCS` or one of `PEERS`.
        settings: name the model, for all.
        arrangement: of a peer; fcs-serve has its own defaults.
        first: asked until it is answered.

    Raises:
        ConfigurationError: it ended, or did not answer.
    """
    if contender == FCS:
        with fcs_server([f"model={settings.model}"]) as server:
            yield f"{server.rest}/embed"
        return
    port = free_port()
    url = f"http://127.0.0.1:{port}{PATH}"
    environment = arrangement.environment(port) | {f"{PREFIX}MODEL": settings.model}
    command = [sys.executable, "-m", f"service.bench.peers.{contender}"]
    body = first.body(contender, "fixed")

    def answered() -> str | None:
        try:
            response = httpx.post(url, content=body, headers=JSON, timeout=TIMEOUT_S)
        except httpx.TransportError:
            return None
        return url if response.is_success else None

    with child(command, environment) as process:
        yield process.wait_until(answered)
