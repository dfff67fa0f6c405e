"""`POST /embed/stream` on a real server: events as they happen, then the whole response."""

import json
import signal
import socket
import threading
import time
from contextlib import contextmanager
from itertools import pairwise

import pytest

from service.rest.schemas import EmbedResponse, ErrorResponse
from service.rest.stream import CheckpointEvent, ProgressEvent
from tests.conftest import await_end, start_server, stop_server
from tests.photos import locate
from tests.rest.test_embed import SEED, encoded, metric
from tests.tiny import picture

HARD = {"target": {"radius": 0.25, "bound": 0.85}, "samples": 1000, "sigma": 0.25}
ENDLESS = {"samples": 100_000, "target": None, "timeout_ms": 60_000}


def events_of(lines):
    """(seconds since the first, name, data), as they arrive; a comment has the name None."""
    began = time.monotonic()
    name = None
    for line in lines:
        if line.startswith(":"):
            yield time.monotonic() - began, None, line
        elif line.startswith("event: "):
            name = line.removeprefix("event: ")
        elif line.startswith("data: "):
            yield time.monotonic() - began, name, json.loads(line.removeprefix("data: "))


@contextmanager
def streaming(server, inputs=None, **body):
    with (
        server.client() as client,
        client.stream("POST", "/embed/stream", json={"inputs": inputs or encoded(), **body}) as r,
    ):
        yield r


def stream(server, inputs=None, **body):
    with streaming(server, inputs, **body) as response:
        assert response.status_code == 200
        assert response.headers["content-type"].startswith("text/event-stream")
        assert "content-length" not in response.headers
        return [event for event in events_of(response.iter_lines()) if event[1] is not None]


def wait_until(condition, seconds=10):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def stands_still(count):
    """What was under way when the work was stopped comes to its end, and nothing follows."""
    before, after = -1, count()
    deadline = time.monotonic() + 10
    while after != before:
        assert time.monotonic() < deadline
        time.sleep(0.5)
        before, after = after, count()


@pytest.fixture(scope="module")
def hard(server):
    """Two pictures after a target that takes hundreds of samples, and the plain answer."""
    inputs = [encoded("astronaut.png"), encoded("coffee.png")]
    events = stream(server, inputs, seed=SEED, **HARD)
    with server.client() as client:
        plain = client.post("/embed", json={"inputs": inputs, "seed": SEED, **HARD}).json()
    return events, plain


def test_the_last_event_is_the_response_of_embed_to_the_last_bit(hard):
    events, plain = hard
    assert [name for _, name, _ in events].count("result") == 1
    _, name, result = events[-1]
    assert name == "result"
    EmbedResponse.model_validate_json(json.dumps(result))
    assert result["data"] == plain["data"]
    assert (result["model"], result["revision"]) == (plain["model"], plain["revision"])


def test_checkpoints_arrive_one_by_one_while_the_work_goes_on(hard):
    events, _ = hard
    times = [at for at, name, _ in events if name == "checkpoint"]
    assert len(times) > 10
    assert events[-1][0] - times[0] > 0.5
    assert len({round(at, 2) for at in times}) > 5


def test_each_picture_tells_its_checkpoints_in_order_and_why_it_stopped(hard):
    events, plain = hard
    for index, item in enumerate(plain["data"]):
        certificate = item["certificate"]
        own = [data for _, name, data in events if name == "checkpoint" and data["index"] == index]
        for data in own:
            CheckpointEvent.model_validate_json(json.dumps(data))
            assert data["target"] == HARD["target"]
        samples = [data["samples"]["estimation"] for data in own]
        assert samples == sorted(set(samples))
        assert set(samples) <= set(certificate["checkpoints"])
        assert samples[-1] == certificate["samples"]["estimation"]
        assert [data["stopped"] for data in own[:-1]] == [None] * (len(own) - 1)
        assert own[-1]["stopped"] == certificate["stopped"] == "target"
        assert own[-1]["reached"]


def test_bounds_so_far_never_fall_and_are_those_of_the_asked_radii(hard):
    events, plain = hard
    for index, item in enumerate(plain["data"]):
        own = [data for _, name, data in events if name == "checkpoint" and data["index"] == index]
        final = item["certificate"]["bounds"]
        assert [b["radius"] for b in own[0]["bounds"]] == [b["radius"] for b in final]
        for one, two in pairwise(own):
            for before, after in zip(one["bounds"], two["bounds"], strict=True):
                assert before["bound"] <= after["bound"]
        for told, bound in zip(own[-1]["bounds"], final, strict=True):
            assert told["bound"] >= bound["bound"]


def test_a_multipart_body_is_taken_as_embed_takes_it(server):
    with (
        server.client() as client,
        client.stream(
            "POST", "/embed/stream", files={"inputs": locate("coffee.png").read_bytes()}
        ) as response,
    ):
        events = list(events_of(response.iter_lines()))
    assert events[-1][1] == "result"
    assert events[-1][2]["data"][0]["certificate"]["stopped"] == "target"


def test_without_a_target_there_is_progress_and_no_bound_before_the_last_sample(server):
    events = stream(server, samples=150, selection_samples=20, target=None)
    *progress, (_, last, checkpoint), (_, name, result) = events
    assert {name for _, name, _ in progress} == {"progress"}
    counts = [ProgressEvent.model_validate_json(json.dumps(data)).samples for *_, data in progress]
    drawn = [count.selection + count.estimation for count in counts]
    assert drawn == sorted(drawn)
    assert len(drawn) > 3
    times = [at for at, *_ in progress]
    assert len(times) <= 2 + 10 * (times[-1] - times[0])
    assert progress[0][2]["planned"] == {"selection": 20, "estimation": 150}
    assert (last, checkpoint["stopped"], checkpoint["target"]) == ("checkpoint", "samples", None)
    assert name == "result"
    bounds = result["data"][0]["certificate"]["bounds"]
    assert checkpoint["bounds"] == [{"radius": b["radius"], "bound": b["bound"]} for b in bounds]


def test_without_a_certificate_there_is_progress_and_the_embedding(server):
    events = stream(server, certify=False, selection_samples=100, encoding_format="base64")
    assert {name for _, name, _ in events[:-1]} == {"progress"}
    assert events[0][2]["planned"] == {"selection": 100, "estimation": 0}
    assert events[-1][2]["data"][0]["certificate"] is None
    assert isinstance(events[-1][2]["data"][0]["embedding"], str)


@pytest.mark.parametrize(
    ("body", "status", "param"),
    [
        ({"sigma": 0.3}, 422, "sigma"),
        ({"radii": ["0.1"]}, 422, "radii[0]"),
        ({"inputs": "aGVsbG8="}, 422, "inputs[0]"),
        ({"model": "x"}, 422, "model"),
        ({"bogus": 1}, 422, "bogus"),
        ({"timeout_ms": 10**9}, 422, "timeout_ms"),
    ],
)
def test_what_is_wrong_from_the_start_has_its_own_status(server, body, status, param):
    name = f'fcs_requests_total{{code="{status}",route="/embed/stream"}}'
    before = metric(server, name)
    with server.client() as client:
        response = client.post("/embed/stream", json={"inputs": encoded(), **body})
        assert client.post("/embed/stream", content=b"x").status_code == 415
    assert response.status_code == status
    assert ErrorResponse.model_validate_json(response.content).error.param == param
    assert metric(server, name) == before + 1


def test_a_deadline_ends_the_stream_with_the_error_it_has_elsewhere(server):
    names = (
        'fcs_requests_total{code="504",route="/embed/stream"}',
        'fcs_rejections_total{reason="deadline_exceeded"}',
    )
    before = [metric(server, name) for name in names]
    events = stream(server, **{**ENDLESS, "timeout_ms": 1500})
    assert events[0][1] == "progress"
    _, name, data = events[-1]
    assert name == "error"
    error = ErrorResponse.model_validate_json(json.dumps(data)).error
    assert (error.type, error.code) == ("deadline_exceeded", 504)
    assert [metric(server, name) for name in names] == [count + 1 for count in before]
    wait_until(lambda: metric(server, "fcs_jobs_running") == 0)


def test_a_client_that_leaves_frees_the_device(server):
    name = 'fcs_requests_total{code="499",route="/embed/stream"}'
    before = metric(server, name)
    with streaming(server, **ENDLESS) as response:
        events = events_of(response.iter_lines())  # letting go of it would close the connection
        next(events)
        assert metric(server, "fcs_jobs_running") == 1
    wait_until(lambda: metric(server, "fcs_jobs_running") == 0)
    wait_until(lambda: metric(server, name) == before + 1)
    stands_still(lambda: metric(server, "fcs_samples_total"))


def test_openapi_describes_every_event(server):
    with server.client() as client:
        operation = client.get("/openapi.json").json()["paths"]["/embed/stream"]["post"]
    kinds = operation["responses"]["200"]["content"]["text/event-stream"]["itemSchema"]["oneOf"]
    assert [kind["properties"]["event"]["const"] for kind in kinds] == [
        "checkpoint",
        "progress",
        "result",
        "error",
    ]
    assert "$ref" not in json.dumps(kinds)
    assert "429" in operation["responses"]


@pytest.fixture(scope="module")
def small():
    """A queue of one picture, and a sign of life every 50 ms."""
    running = start_server(environment={"FCS_MAX_PENDING_PICTURES": "1", "FCS_KEEP_ALIVE_MS": "50"})
    yield running
    stop_server(running)


def test_a_full_queue_is_a_plain_429_with_a_delay(small):
    with streaming(small, **ENDLESS) as response:
        events = events_of(response.iter_lines())
        next(events)
        with small.client() as client:
            refused = client.post("/embed/stream", json={"inputs": encoded()})
    assert refused.status_code == 429
    assert int(refused.headers["retry-after"]) >= 1
    assert refused.headers["content-type"] == "application/json"
    wait_until(lambda: metric(small, "fcs_jobs_running") == 0)


def test_while_nothing_happens_comments_keep_the_connection_alive(small):
    with streaming(small, **ENDLESS) as response:
        events = events_of(response.iter_lines())
        assert any(name is None for _, name, _ in (next(events) for _ in range(60)))
    wait_until(lambda: metric(small, "fcs_jobs_running") == 0)


def test_a_reader_that_stalls_holds_nothing_up_and_still_gets_its_result(small):
    host, port = small.rest.removeprefix("http://").split(":")
    radii = [0.25] + [i / 1000 for i in range(1, 64)]
    body = json.dumps({"inputs": encoded(), "radii": radii, "receipt": True, **HARD}).encode()
    head = (
        "POST /embed/stream HTTP/1.0\r\nHost: x\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    with socket.socket() as reader:
        reader.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        reader.connect((host, int(port)))
        reader.sendall(head.encode() + body)
        time.sleep(1)
        wait_until(lambda: metric(small, "fcs_jobs_running") == 0, 60)
        received = b""
        reader.settimeout(20)
        while chunk := reader.recv(65536):
            received += chunk
    text = received.decode()
    *_, (_, name, result) = events_of(text.splitlines())
    assert name == "result"
    assert len(result["data"][0]["certificate"]["bounds"]) == 64


def test_sigterm_lets_a_stream_finish():
    server = start_server(environment={"FCS_DRAIN_MS": "110000"})
    ended = []

    def ask():
        ended.append(stream(server, samples=300, selection_samples=50, target=None)[-1])

    asking = threading.Thread(target=ask)
    asking.start()
    wait_until(lambda: metric(server, "fcs_jobs_running") == 1)
    server.process.send_signal(signal.SIGTERM)
    with server.client() as client:
        wait_until(lambda: client.get("/health/ready").status_code == 503)
        refused = client.post("/embed/stream", files={"inputs": picture()})
        assert refused.status_code == 503
    asking.join()
    assert ended[0][1] == "result"
    assert ended[0][2]["data"][0]["certificate"]["samples"]["estimation"] == 300
    await_end(server)


def test_work_that_outlasts_the_drain_ends_its_stream_with_an_error():
    server = start_server(environment={"FCS_DRAIN_MS": "300"})
    ended = []
    asking = threading.Thread(target=lambda: ended.append(stream(server, **ENDLESS)[-1]))
    asking.start()
    wait_until(lambda: metric(server, "fcs_jobs_running") == 1)
    server.process.send_signal(signal.SIGTERM)
    asking.join()
    assert (ended[0][1], ended[0][2]["error"]["code"]) == ("error", 503)
    await_end(server)
