"""The life of a real process: start, probes, drain, refusals to start."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time

import httpx
import pytest

from tests import launch
from tests.conftest import await_end, start_server
from tests.tiny import picture


def run_to_the_end(*options, environment=None):
    return launch.fcs("serve", "--port", "0", "--grpc-port", "0", *options, **(environment or {}))


@pytest.mark.parametrize(
    ("options", "environment", "reason"),
    [
        (("--model", "no-such-model"), {}, "no model 'no-such-model'"),
        (("--config", "absent.toml"), {}, "absent.toml"),
        ((), {"FCS_SIGMAS": "1"}, "unknown environment variable FCS_SIGMAS"),
        ((), {"FCS_MAX_SAMPLES": "many"}, "max_samples"),
        (("--device", "tpu"), {}, "device"),
        ((), {"FCS_DEFAULT_SIGMA": "0.3"}, "not a noise level"),
        ((), {"FCS_CACHE_DIR": "/proc/x"}, "cannot be kept in"),
        (("--dtype", "float8"), {}, "dtype"),
        (("--threads", "many"), {}, "threads"),
        ((), {"FCS_SIGNING_KEY": "README.md"}, "the signing key README.md is not"),
    ],
    ids=[
        "model",
        "file",
        "variable",
        "value",
        "device",
        "sigma",
        "cache",
        "dtype",
        "threads",
        "key",
    ],
)
def test_a_configuration_error_ends_the_start_with_one_clear_line(options, environment, reason):
    ended = run_to_the_end(*options, environment=environment)
    assert ended.returncode == 2
    errors = [line for line in ended.stderr.splitlines() if line.startswith("fcs: ")]
    assert len(errors) == 1
    assert reason in errors[0]
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize("option", ["--port", "--grpc-port"])
def test_a_port_in_use_ends_the_start(option):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        ended = run_to_the_end(option, str(taken.getsockname()[1]))
    assert ended.returncode == 2
    assert "cannot listen" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_sigterm_answers_what_was_accepted_and_refuses_the_rest():
    server = start_server(fresh=True, environment={"FCS_DRAIN_MS": "110000"})
    answers = []

    def ask():
        with server.client() as client:
            body = {"samples": "300", "selection_samples": "50"}
            answers.append(client.post("/embed", files={"inputs": picture()}, data=body))

    asking = threading.Thread(target=ask)
    with server.client() as client:
        asking.start()
        while "fcs_jobs_running 0.0" in client.get("/metrics").text:
            time.sleep(0.01)
        server.process.send_signal(signal.SIGTERM)
        deadline = time.monotonic() + 5
        while client.get("/health/ready").status_code == 200:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        refused = client.post("/embed", files={"inputs": picture()})
        assert refused.status_code == 503
        assert "draining" in refused.json()["error"]["message"]
        assert client.get("/health/live").status_code == 200
    asking.join()
    assert answers[0].status_code == 200
    assert answers[0].json()["data"][0]["certificate"]["samples"]["estimation"] == 300
    await_end(server)


def test_a_client_that_stalls_its_upload_does_not_hold_the_end():
    server = start_server(fresh=True)
    host, port = server.rest.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as stalled:
        head = "POST /embed HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        stalled.sendall(f"{head}Content-Length: 1000\r\n\r\n{{".encode())
        time.sleep(0.3)
        server.process.terminate()
        await_end(server)


def test_a_second_signal_ends_at_once():
    server = start_server(fresh=True)

    def ask():
        with server.client() as client, pytest.raises(httpx.HTTPError):
            client.post("/embed", files={"inputs": picture()}, data={"samples": "100000"})

    asking = threading.Thread(target=ask)
    asking.start()
    with server.client() as client:
        while "fcs_jobs_running 0.0" in client.get("/metrics").text:
            time.sleep(0.01)
    server.process.send_signal(signal.SIGTERM)
    time.sleep(0.3)
    server.process.send_signal(signal.SIGTERM)
    assert server.process.wait(5) == 128 + signal.SIGTERM
    asking.join()
    server.reader.join()
    server.process.stdout.close()


def test_probes_answer_while_the_model_still_loads(tmp_path):
    """Live from the first moment, ready only once warm; a stop meanwhile is obeyed."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    process = subprocess.Popen(
        [sys.executable, "-m", "service", "serve", "--port", str(port), "--grpc-port", "0"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "FCS_CACHE_DIR": str(tmp_path)},
    )
    seen = []
    deadline = time.monotonic() + 60
    while 200 not in seen:
        assert time.monotonic() < deadline
        try:
            live = httpx.get(f"http://127.0.0.1:{port}/health/live").status_code
            assert live == 200
            seen.append(httpx.get(f"http://127.0.0.1:{port}/health/ready").status_code)
        except httpx.ConnectError:
            time.sleep(0.005)
    assert set(seen) <= {200, 503}
    process.terminate()
    assert process.wait(30) == 0
