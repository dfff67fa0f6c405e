"""A server to do harm to, and a table of what came of it."""

import json
import socket
import time

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from service.audit.reading import check, find
from service.bench.processes import resident_bytes
from tests.chaos.load import Load
from tests.conftest import start_server

_rows = []


class Victim:
    """A server on ports that stay the same when it is started again.

    Args:
        folder: of its key and its audit log.
        environment: beside what all have.
    """

    def __init__(self, folder, module="service", **environment):
        self.audit = folder / "audit.jsonl"
        self._ports = free_port(), free_port()
        self._module = module
        self.loads = []
        key = folder / "key.pem"
        key.write_bytes(
            Ed25519PrivateKey.generate().private_bytes(
                Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()
            )
        )
        key.chmod(0o600)
        self._environment = {
            "FCS_SIGNING_KEY": str(key),
            "FCS_AUDIT_LOG": str(self.audit),
            **environment,
        }
        self.start()

    def start(self):
        rest, rpc = map(str, self._ports)
        options = "--port", rest, "--grpc-port", rpc
        self.server = start_server(
            *options, environment=self._environment, module=self._module, fresh=True
        )
        self.public_key = self.get("/info").json()["public_key"]

    def load(self, **options):
        self.loads.append(Load(self.server.rest, self.server.grpc, self.public_key, **options))
        return self.loads[-1]

    def get(self, path):
        return httpx.get(f"{self.server.rest}{path}", timeout=30)

    def value(self, name):
        lines = self.get("/metrics").text.splitlines()
        return sum(float(line.split()[-1]) for line in lines if line.startswith(name))

    @property
    def resident(self):
        return resident_bytes(self.server.process.pid)

    def ready(self):
        try:
            return self.get("/health/ready").status_code == 200
        except httpx.TransportError:
            return False

    def wait(self, condition, seconds=60.0):
        end = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < end
            time.sleep(0.05)

    def at_rest(self):
        """Ready, and nothing left of any request."""
        self.wait(lambda: self.ready() and not self.value("fcs_jobs_running"))
        self.wait(lambda: not self.value("fcs_pending_samples"))

    def kill(self):
        """As `kill -9` does."""
        self.server.process.kill()
        self._ended()

    def end(self):
        """By a signal; its exit status."""
        self.server.process.terminate()
        return self._ended()

    def _ended(self):
        code = self.server.process.wait(60)
        self.server.reader.join()
        self.server.process.stdout.close()
        return code


@pytest.fixture
def victims(tmp_path):
    """Makes them, and ends those that live."""
    made = []

    def make(**environment):
        made.append(Victim(tmp_path, **environment))
        return made[-1]

    yield make
    for victim in made:
        for load in victim.loads:
            load.leave()  # a scenario that failed has not
        if victim.server.process.poll() is None:
            assert victim.end() == 0, "".join(victim.server.log)[-3000:]


@pytest.fixture
def report(request):
    """Adds what came of a scenario to the table."""

    def add(load, **more):
        kinds = load.kinds()
        answered = [one.seconds for one in load.ended if one.kind == "answered"]
        _rows.append(
            {
                "scenario": request.node.name.removeprefix("test_"),
                "requests": len(load.ended),
                **{k: kinds[k] for k in ("answered", "refused", "unreached", "broken")},
                "longest_s": round(max(one.seconds for one in load.ended), 1),
                "median_s": round(sorted(answered)[len(answered) // 2], 2) if answered else None,
                **more,
            }
        )

    return add


def pytest_terminal_summary(terminalreporter):
    if not _rows:
        return
    terminalreporter.section("chaos")
    names = list(dict.fromkeys(name for row in _rows for name in row))
    for row in (dict(zip(names, names, strict=True)), *_rows):
        terminalreporter.write_line(" | ".join(str(row.get(name, "")) for name in names))
    terminalreporter.write_line(json.dumps({"chaos": _rows}))


def audited(victim, ended):
    """Every answer's certificate is on record, signed by the service, and none is missing."""
    found = check(victim.audit, {victim.public_key})
    answered = [one for one in ended if one.kind == "answered"]
    assert found.receipts >= len(answered)
    for one in answered:
        assert find(victim.audit, one.request_id).receipt.signed_by(victim.public_key)


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as free:
        return free.getsockname()[1]
