"""Each fault in a running service, under clients of both doors that ask all the time."""

import base64
import io
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import grpc
import numpy as np
import pytest
from PIL import Image

from service.rpc.generated import fcs_pb2 as pb
from tests.conftest import start_server, stop_server
from tests.faulty import POISON
from tests.models import tiny_folders

CLIENTS = 4
COUNTS = {"samples": 24, "selection_samples": 8}


def png(colour):
    stream = io.BytesIO()
    Image.new("RGB", (32, 32), colour).save(stream, "PNG")
    return stream.getvalue()


COLOURS = [(10 * i, 200 - 20 * i, 30) for i in range(CLIENTS)]


@dataclass
class Answer:
    """Of one request: its code, and what must repeat under one seed and one revision."""

    client: int
    code: str
    revision: str = ""
    embedding: bytes = b""
    bound: float = 0.0

    @property
    def content(self):
        return self.embedding, self.bound


def ask_rest(server, client, colour=None, **fields):
    data = base64.b64encode(png(colour or COLOURS[client])).decode()
    body = {"inputs": data, "seed": f"{client:032x}", "encoding_format": "base64", **COUNTS}
    with server.client() as http:
        response = http.post("/embed", json={**body, **fields})
    if response.status_code != 200:
        return Answer(client, str(response.status_code))
    found = response.json()
    item = found["data"][0]
    values = base64.b64decode(item["embedding"])
    bound = item["certificate"]["bounds"][0]["bound"]
    return Answer(client, "200", found["revision"], values, bound)


def ask_grpc(server, client, colour=None):
    channel, stub = server.stub()
    request = pb.EmbedRequest(
        images=[png(colour or COLOURS[client])], seed=f"{client:032x}", **COUNTS
    )
    with channel:
        try:
            found = stub.Embed(request, timeout=60)
        except grpc.RpcError as error:
            return Answer(client, error.code().name)
    item = found.data[0]
    values = np.array(item.embedding, "<f4").tobytes()
    return Answer(client, "200", found.revision, values, item.certificate.bounds[0].bound)


def ask(server, client, **fields):
    return (ask_rest if client % 2 else ask_grpc)(server, client, **fields)


@pytest.fixture
def fault(tmp_path):
    return tmp_path / "fault"


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "vit"
    tiny_folders.write("vit", folder)
    return folder


@pytest.fixture
def server(fault, model, request):
    """Of a tiny model; `stuck_after`: milliseconds after which a device call counts as stuck."""
    stuck_after = getattr(request, "param", 60_000)
    running = start_server(
        "--allow-client-seed", "--model", str(model), "--batch-size", "8",
        module="tests.faulty",
        environment={"FAULT": str(fault), "FCS_DEVICE_TIMEOUT_MS": str(stuck_after)},
    )  # fmt: skip
    yield running
    stop_server(running)


@pytest.fixture
def traffic(server):
    """Clients that ask without a pause; call it to end them and have all their answers."""
    end, answers = threading.Event(), []

    def client(number):
        while not end.is_set():
            answers.append(ask(server, number))

    pool = ThreadPoolExecutor(CLIENTS)
    running = [pool.submit(client, number) for number in range(CLIENTS)]

    def finish():
        end.set()
        for task in running:
            task.result(300)
        return answers

    yield finish
    finish()
    pool.shutdown()


def wait_for(condition, seconds=180):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def status(server, path="/health/ready"):
    with server.client() as http:
        return http.get(path).status_code


def asked(server):
    """Every client has been answered at least once more when this returns."""
    time.sleep(1.5)


def references(server):
    return [ask(server, number) for number in range(CLIENTS)]


def all_correct(answers, expected):
    for answer in answers:
        assert answer.code == "200"
        assert answer.revision == expected[answer.client].revision
        assert answer.content == expected[answer.client].content


def test_a_poisoned_picture_fails_its_own_request_only(server, traffic):
    expected = references(server)
    poisoned = [ask(server, number, colour=POISON) for number in range(4)]
    asked(server)
    answers = traffic()
    assert {answer.code for answer in poisoned} == {"500", "INTERNAL"}
    assert len(answers) > CLIENTS
    all_correct(answers, expected)
    assert status(server) == 200


def test_out_of_memory_costs_no_request_its_answer(server, fault, traffic):
    before = references(server)
    fault.write_text("oom 3")
    asked(server)
    after = references(server)
    answers = traffic()
    assert {answer.revision for answer in after}.isdisjoint({a.revision for a in before})
    for answer in answers:
        assert answer.code == "200"
        known = {known[answer.client].revision: known[answer.client] for known in (before, after)}
        assert answer.content == known[answer.revision].content
    with server.client() as http:
        assert http.get("/info").json()["models"][0]["batch_size"] <= 3
        assert "fcs_batch_halvings_total 2.0" in http.get("/metrics").text


def test_a_dead_device_thread_is_told_to_all_and_restarted(server, fault, traffic):
    expected = references(server)
    fault.write_text("die")
    wait_for(lambda: not fault.exists())
    wait_for(lambda: status(server) == 200)
    asked(server)
    answers = traffic()
    lost = [answer for answer in answers if answer.code != "200"]
    assert {answer.code for answer in lost} <= {"503", "UNAVAILABLE"}
    assert len(lost) >= 1
    all_correct([answer for answer in answers if answer.code == "200"], expected)
    all_correct(references(server), expected)
    with server.client() as http:
        assert "fcs_device_restarts_total 1.0" in http.get("/metrics").text


@pytest.mark.parametrize("server", [1500], indirect=True, ids=["stuck after 1.5 s"])
def test_a_stuck_call_turns_readiness_off_and_ends_when_it_returns(server, fault, traffic):
    expected = references(server)
    fault.write_text("stick")
    wait_for(lambda: status(server) == 503)
    assert status(server, "/health/live") == 503
    assert ask(server, 0).code == "UNAVAILABLE"
    assert ask(server, 1).code == "503"
    fault.unlink()
    wait_for(lambda: status(server) == 200)
    assert status(server, "/health/live") == 200
    asked(server)
    answers = traffic()
    assert {a.code for a in answers} <= {"200", "503", "UNAVAILABLE"}
    all_correct([answer for answer in answers if answer.code == "200"], expected)
    all_correct(references(server), expected)
