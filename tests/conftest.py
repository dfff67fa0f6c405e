"""Fixtures: a tiny model for fast engine and core tests, and one real server for the doors."""

import os
import re
import subprocess
import sys
import threading
from dataclasses import dataclass
from pathlib import Path

import grpc
import httpx
import pytest
import scipy.linalg  # noqa: F401  # loads the BLAS libraries that are limited below
from hypothesis import settings
from threadpoolctl import threadpool_limits

from service.rpc.generated import fcs_pb2_grpc
from tests import launch

# As the service does: pools of several BLAS threads stall each other on a busy machine.
threadpool_limits(limits=1, user_api="blas")

# Examples drawn from the test's own name: what passed passes again.
# HYPOTHESIS_PROFILE=default looks for new ones.
settings.register_profile("seeded", derandomize=True, deadline=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "seeded"))

for name in [n for n in os.environ if n.startswith("FCS_")]:
    del os.environ[name]
# Every server and command would measure for seconds, and might choose otherwise than the last.
os.environ["FCS_TUNE"] = "false"
# The machine may have other work, and be slow.
os.environ["FCS_DEFAULT_TIMEOUT_MS"] = "110000"
# The default's encoder alone, which costs half as much; tests/test_default_model.py has all of it.
os.environ["FCS_MODEL"] = "efficientnet-lite0-160"


@dataclass(frozen=True)
class Server:
    """A running `fcs serve`."""

    rest: str
    grpc: str
    process: subprocess.Popen | launch.Launched
    log: list
    reader: threading.Thread

    def client(self, **options):
        return httpx.Client(base_url=self.rest, timeout=300, **options)

    def stub(self):
        channel = grpc.insecure_channel(self.grpc, options=[("grpc.max_send_message_length", -1)])
        return channel, fcs_pb2_grpc.FcsStub(channel)


def start_server(*options, environment=None, module="service", fresh=False):
    """Start `fcs serve` on free ports and wait until it says that it is ready.

    Args:
        fresh: as an operator starts it, in a process that has imported nothing.
    """
    arguments = ["serve", "--port", "0", "--grpc-port", "0", *options]
    environment = {**os.environ, **(environment or {})}
    if fresh:
        process = subprocess.Popen(
            [sys.executable, "-m", module, *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=Path(__file__).parent.parent,
            env=environment,
        )
    else:
        process = launch.start(module, arguments, environment)
    log, found = [], {}
    for line in process.stdout:
        log.append(line)
        if match := re.search(r"REST\s+(https?://\S+)", line):
            found["rest"] = match[1]
        if match := re.search(r"gRPC\s+(\S+:\d+)", line):
            found["grpc"] = match[1]
            break
    assert len(found) == 2, "".join(log)
    reader = threading.Thread(target=lambda: log.extend(process.stdout), daemon=True)
    reader.start()
    return Server(found["rest"], found["grpc"], process, log, reader)


def stop_server(server):
    server.process.terminate()
    await_end(server)


def await_end(server):
    """The process ends by itself, cleanly."""
    code = server.process.wait(30)
    server.reader.join()
    server.process.stdout.close()
    assert code == 0, "".join(server.log)


@pytest.fixture(scope="session")
def server():
    """The bare embedded encoder, with client seeds allowed."""
    running = start_server("--allow-client-seed")
    yield running
    stop_server(running)
