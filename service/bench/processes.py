"""Servers under test, each a process of its own: start, readiness, memory, metrics, end."""

import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import httpx
from prometheus_client.parser import text_string_to_metric_families

from service.config import PREFIX
from service.errors import ConfigurationError

_START_S = 120.0
_END_S = 45.0  # drain_ms and then some
_POLL_S = 0.05
_SHOWN_LINES = 15
T = TypeVar("T")
# (sample name, its labels in the order of their names) -> value.
Counters = dict[tuple[str, tuple[tuple[str, str], ...]], float]


@dataclass(frozen=True, slots=True)
class Child:
    """A running process and the file its output goes to."""

    process: "subprocess.Popen[bytes]"
    output: Path

    def wait_until(self, ready: Callable[[], T | None]) -> T:
        """The first answer of `ready` that is not None.

        Raises:
            ConfigurationError: the process ended, or was not ready within two minutes.
        """
        until = time.monotonic() + _START_S
        while time.monotonic() < until:
            if (found := ready()) is not None:
                return found
            if self.process.poll() is not None:
                raise ConfigurationError(f"the server ended at its start:\n{self._tail()}")
            time.sleep(_POLL_S)
        raise ConfigurationError(f"the server was not ready in {_START_S:g} s:\n{self._tail()}")

    def _tail(self) -> str:
        lines = self.output.read_text(errors="replace").splitlines()
        return "\n".join(lines[-_SHOWN_LINES:])


@contextmanager
def child(command: Sequence[str], environment: Mapping[str, str]) -> Iterator[Child]:
    """Run a command; at the end it is asked to stop, then it and all it started are made to."""
    with tempfile.NamedTemporaryFile(prefix="fcs-bench-", suffix=".log") as log:
        process = subprocess.Popen(  # noqa: S603  # commands come from this package
            command,
            stdout=log,
            stderr=subprocess.STDOUT,
            env={**os.environ, **environment},
            start_new_session=True,
        )
        try:
            yield Child(process, Path(log.name))
        finally:
            process.terminate()
            with suppress(subprocess.TimeoutExpired):
                process.wait(_END_S)
            with suppress(ProcessLookupError):  # the group is this child's own
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


@dataclass(frozen=True, slots=True)
class Server:
    """A running fcs-serve.

    Attributes:
        rest: base URL.
        grpc: host:port.
        pid: its process on this machine; None where that is not known.
    """

    rest: str
    grpc: str
    pid: int | None


@contextmanager
def fcs_server(settings: Sequence[str] = ()) -> Iterator[Server]:
    """`fcs serve` on free ports of 127.0.0.1, ready.

    Args:
        settings: NAME=VALUE, as in `FCS_<NAME>` variables.

    Raises:
        ConfigurationError: a setting without "=", or whatever ended the server's start.
    """
    environment = dict(_variable(text) for text in settings)
    ports = ("--host", "127.0.0.1", "--port", "0", "--grpc-port", "0")
    command = [sys.executable, "-m", "service", "serve", *ports, "--log-level", "warning"]
    with child(command, environment) as running:
        yield running.wait_until(lambda: _announced(running))


def _variable(text: str) -> tuple[str, str]:
    name, separator, value = text.partition("=")
    if not separator:
        raise ConfigurationError(f"{text!r} is not a server setting; write NAME=VALUE")
    return PREFIX + name.strip().upper(), value.strip()


def _announced(running: Child) -> Server | None:
    text = running.output.read_text(errors="replace")
    rest = re.search(r"REST\s+(http://\S+)", text)
    rpc = re.search(r"gRPC\s+(\S+:\d+)", text)
    return Server(rest[1], rpc[1], running.process.pid) if rest and rpc else None


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listened on just now."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
    return port


def counters(rest: str) -> Counters:
    """All samples of the server's `/metrics`.

    Raises:
        ConfigurationError: no fcs-serve answers there.
    """
    try:
        text = httpx.get(f"{rest}/metrics", timeout=10).raise_for_status().text
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise ConfigurationError(f"no metrics at {rest}: {error}") from error
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def value(found: Counters, name: str, **labels: str) -> float:
    """One sample; 0 where the server has not made it yet."""
    return found.get((name, tuple(sorted(labels.items()))), 0.0)


def resident_bytes(pid: int) -> int | None:
    """Memory of a process that lies in RAM; None where the system does not tell."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return None
    found = re.search(r"^VmRSS:\s+(\d+) kB$", status, re.MULTILINE)
    return 1024 * int(found[1]) if found else None
