"""Every bad input gets its status, in one form, from a real server, and leaves nothing behind."""

import base64
import json
import socket
import threading
from pathlib import Path

import httpx
import pytest

from service.rest.schemas import ErrorResponse
from tests.conftest import start_server, stop_server
from tests.photos import locate
from tests.pictures.test_decode import png_header
from tests.tiny import picture

PHOTO = base64.b64encode(picture(size=(64, 64))).decode()
TRUNCATED = base64.b64encode(locate("coffee.png").read_bytes()[:30_000]).decode()
HUGE = base64.b64encode(png_header(50_000, 50_000)).decode()
TIFF = base64.b64encode(b"II*\x00\x08\x00\x00\x00\x00\x00").decode()

CASES = {
    "not an image": ({"inputs": base64.b64encode(b"hello").decode()}, 422, "inputs[0]"),
    "not base64": ({"inputs": "?!"}, 422, "inputs[0]"),
    "truncated PNG": ({"inputs": [PHOTO, TRUNCATED]}, 422, "inputs[1]"),
    "unsupported format": ({"inputs": TIFF}, 422, "inputs[0]"),
    "50,000 x 50,000 header": ({"inputs": HUGE}, 413, "inputs[0]"),
    "remote URL": ({"inputs": "http://example.com/cat.png"}, 422, "inputs[0]"),
    "malformed data URI": ({"inputs": "data:image/png,xyz"}, 422, "inputs[0]"),
    "no pictures": ({"inputs": []}, 422, "inputs"),
    "100 pictures": ({"inputs": [PHOTO] * 100}, 422, "inputs"),
    "missing inputs": ({"sigma": 0.25}, 422, "inputs"),
    "inputs of the wrong type": ({"inputs": 7}, 422, "inputs"),
    "a list with a number": ({"inputs": [PHOTO, 7]}, 422, "inputs"),
    "empty radii": ({"inputs": PHOTO, "radii": []}, 422, "radii"),
    "negative radius": ({"inputs": PHOTO, "radii": [0.1, -0.1]}, 422, "radii[1]"),
    "radius as text": ({"inputs": PHOTO, "radii": ["0.1"]}, 422, "radii[0]"),
    "too many radii": ({"inputs": PHOTO, "radii": [0.1] * 65}, 422, "radii"),
    "negative sigma": ({"inputs": PHOTO, "sigma": -0.25}, 422, "sigma"),
    "unsupported sigma": ({"inputs": PHOTO, "sigma": 0.3}, 422, "sigma"),
    "sigma as boolean": ({"inputs": PHOTO, "sigma": True}, 422, "sigma"),
    "samples over the limit": ({"inputs": PHOTO, "samples": 100_001}, 422, "samples"),
    "zero samples": ({"inputs": PHOTO, "samples": 0}, 422, "samples"),
    "fractional samples": ({"inputs": PHOTO, "samples": 10.5}, 422, "samples"),
    "boolean samples": ({"inputs": PHOTO, "samples": True}, 422, "samples"),
    "selection over the limit": (
        {"inputs": PHOTO, "selection_samples": 10_001}, 422, "selection_samples"
    ),
    "certainty": ({"inputs": PHOTO, "confidence": 1}, 422, "confidence"),
    "timeout over the limit": ({"inputs": PHOTO, "timeout_ms": 600_001}, 422, "timeout_ms"),
    "zero timeout": ({"inputs": PHOTO, "timeout_ms": 0}, 422, "timeout_ms"),
    "unknown field": ({"inputs": PHOTO, "sigmma": 0.25}, 422, "sigmma"),
    "unknown model": ({"inputs": PHOTO, "model": "x"}, 422, "model"),
    "unknown profile": ({"inputs": PHOTO, "profile": "x"}, 422, "profile"),
    "unknown encoding": ({"inputs": PHOTO, "encoding_format": "hex"}, 422, "encoding_format"),
    "a misspelt name": ({"input": PHOTO}, 422, "input"),
    "another kind of data": ({"inputs": "data:text/html;base64,aGk="}, 422, "inputs[0]"),
    "a target without a bound": ({"inputs": PHOTO, "target": {"radius": 1}}, 422, "target.bound"),
    "a target that is a number": ({"inputs": PHOTO, "target": 0.9}, 422, "target"),
    "a target of bound 1": (
        {"inputs": PHOTO, "target": {"radius": 0.1, "bound": 1}}, 422, "target.bound"
    ),
    "a target of a negative radius": (
        {"inputs": PHOTO, "target": {"radius": -0.1, "bound": 0.9}}, 422, "target.radius"
    ),
    "a target of a third field": (
        {"inputs": PHOTO, "target": {"radius": 0.1, "bound": 0.9, "norm": 2}}, 422, "target.norm"
    ),
    "a target without a certificate": (
        {"inputs": PHOTO, "certify": False, "target": {"radius": 0.1, "bound": 0.9}}, 422, "target"
    ),
    "a bad seed": ({"inputs": PHOTO, "seed": "zz"}, 422, "seed"),
    "endless timeout": ({"inputs": PHOTO, "timeout_ms": 10**400}, 422, "timeout_ms"),
    "many wrong inputs": ({"inputs": [1] * 900_000}, 422, "inputs"),
    "many empty inputs": ({"inputs": [""] * 900_000}, 422, "inputs"),
    "many wrong radii": ({"inputs": PHOTO, "radii": ["x"] * 900_000}, 422, "radii[0]"),
    "millions of values": ({"inputs": PHOTO, "radii": [1] * 2_000_000}, 413, None),
    "many unknown fields": ({f"field{i}": 1 for i in range(300_000)}, 422, "field0"),
    "a long unknown name": ({"inputs": PHOTO, "model": "x" * 100_000}, 422, "model"),
    "deadline": ({"inputs": PHOTO, "samples": 50_000, "timeout_ms": 300}, 504, None),
    "an array": ([], 422, None),
}  # fmt: skip
RAW = {
    "no JSON": (b"{", 422, None),
    "empty body": (b"", 422, None),
    "NaN": (f'{{"inputs": "{PHOTO}", "sigma": NaN}}'.encode(), 422, "sigma"),
    "NaN radius": (f'{{"inputs": "{PHOTO}", "radii": [NaN]}}'.encode(), 422, "radii[0]"),
    "infinite radius": (f'{{"inputs": "{PHOTO}", "radii": [Infinity]}}'.encode(), 422, "radii[0]"),
    "not UTF-8": (b'{"inputs": "\xff"}', 422, None),
    "deep nesting": (b'{"inputs":' + b"[" * 10_000 + b"]" * 10_000 + b"}", 422, None),
    "17 MiB": (b" " * (17 * 2**20), 413, None),
}


def checked(response, status, param):
    assert response.status_code == status, response.text
    error = ErrorResponse.model_validate_json(response.content).error
    assert error.code == status
    assert error.param == param
    assert error.message


@pytest.fixture(scope="module")
def client(server):
    with server.client() as client:
        yield client


@pytest.mark.parametrize("case", CASES)
def test_each_bad_request_gets_its_status_and_field(client, case):
    body, status, param = CASES[case]
    checked(client.post("/embed", json=body), status, param)


@pytest.mark.parametrize("case", RAW)
def test_each_malformed_body_gets_its_status(client, case):
    body, status, param = RAW[case]
    headers = {"content-type": "application/json"}
    checked(client.post("/embed", content=body, headers=headers), status, param)


@pytest.mark.parametrize("content_type", ["text/plain", "image/png", "", "application/xml"])
def test_other_content_types_are_refused(client, content_type):
    headers = {"content-type": content_type} if content_type else {}
    checked(client.post("/embed", content=b"{}", headers=headers), 415, None)


def test_an_encoded_body_is_refused(client):
    headers = {"content-type": "application/json", "content-encoding": "gzip"}
    checked(client.post("/embed", content=b"{}", headers=headers), 415, None)


def test_a_route_that_is_not_there_is_no_redirect(client):
    checked(client.post("/embed/", json={}), 404, None)


@pytest.mark.parametrize(
    ("files", "data", "param"),
    [
        ([("inputs", ("a.png", b"nope"))], {}, "inputs[0]"),
        ([("picture", ("a.png", picture()))], {}, "picture"),
        ([("inputs", ("a.png", picture()))], {"sigma": "x"}, "sigma"),
        ([("inputs", ("a.png", picture()))], {"sigma": ["0.25", "0.25"]}, "sigma"),
        ([("inputs", ("a.png", picture()))], {"sigmma": "0.25"}, "sigmma"),
        ([("inputs", ("a.png", picture()))], {"samples": "1e3"}, "samples"),
        ([("inputs", ("a.png", picture()))], {"radii": "[]"}, "radii"),
        ([("inputs", ("a.png", picture()))], {"radii": "[" * 100_000}, "radii[0]"),
        ([("inputs", ("a.png", picture()))], {"timeout_ms": "9" * 400}, "timeout_ms"),
        ([("inputs", ("a.png", picture()))] * 100, {}, "inputs"),
    ],
    ids=[
        "no image",
        "wrong name",
        "text",
        "twice",
        "unknown",
        "float",
        "empty list",
        "deep",
        "endless",
        "100",
    ],
)
def test_bad_forms_get_422(client, files, data, param):
    checked(client.post("/embed", files=files, data=data), 422, param)


def test_a_form_without_files_is_an_empty_request(client):
    checked(client.post("/embed", files={"sigma": (None, "0.25")}), 422, "inputs")


def test_a_broken_form_is_refused(client):
    headers = {"content-type": "multipart/form-data; boundary=x"}
    checked(client.post("/embed", content=b"--y\r\nnothing", headers=headers), 422, None)
    headers = {"content-type": "multipart/form-data"}
    checked(client.post("/embed", content=b"--y\r\nnothing", headers=headers), 422, None)


@pytest.mark.parametrize("cut", [1, 3, 20, 200])
def test_a_form_that_was_cut_off_is_refused_whole(client, cut):
    """Parts that are missing must not be taken for parts that were not sent."""
    form = httpx.Request(
        "POST", "http://x", files=[("inputs", ("a.png", picture()))] * 2, data={"samples": "20"}
    )
    body = form.read().rstrip()[:-cut]
    headers = {"content-type": form.headers["content-type"]}
    checked(client.post("/embed", content=body, headers=headers), 422, None)


@pytest.mark.parametrize("charset", ["undefined", "punycode", "utf-16"])
def test_a_charset_changes_nothing(client, charset):
    form = httpx.Request(
        "POST", "http://x", files={"inputs": picture()}, data={"samples": "20", "certify": "false"}
    )
    headers = {"content-type": form.headers["content-type"] + f"; charset={charset}"}
    response = client.post("/embed", content=form.read(), headers=headers)
    assert response.status_code == 200, response.text


def test_probes_answer_head_and_405_names_what_is_allowed(client):
    for path in ("/health", "/health/live", "/health/ready", "/metrics"):
        assert client.head(path).status_code == 200
    assert client.get("/embed").headers["allow"] == "POST"


@pytest.mark.parametrize(
    ("method", "path", "status"), [("GET", "/nope", 404), ("GET", "/embed", 405)]
)
def test_wrong_paths_and_methods_have_the_same_form(client, method, path, status):
    checked(client.request(method, path), status, None)


def test_after_all_of_this_nothing_is_left_behind(client):
    """Runs last in this file: good work still goes through, no job or sample is left."""
    good = client.post("/embed", json={"inputs": PHOTO, "samples": 60, "selection_samples": 10})
    assert good.status_code == 200
    text = client.get("/metrics").text
    assert "fcs_pending_samples 0.0" in text
    assert "fcs_jobs_running 0.0" in text


def resident_kib(process):
    lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS"))


def test_bad_input_leaves_no_memory_behind(server, client):
    bodies = [
        CASES[name][0] for name in ("not an image", "truncated PNG", "50,000 x 50,000 header")
    ]

    def rounds(count):
        for _ in range(count):
            for body in bodies:
                client.post("/embed", json=body)
            client.post(
                "/embed", content=RAW["17 MiB"][0], headers={"content-type": "application/json"}
            )

    rounds(10)
    before = resident_kib(server.process)
    rounds(40)
    assert resident_kib(server.process) - before < 40_000


@pytest.fixture(scope="module")
def small_server():
    """A server whose queue and bodies are small."""
    limits = {
        "FCS_MAX_PENDING_PICTURES": "1",
        "FCS_MAX_BODY_BYTES": "4096",
        "FCS_BODY_TIMEOUT_MS": "1000",
    }
    running = start_server(environment=limits)
    yield running
    stop_server(running)


def test_a_body_without_a_declared_length_is_counted_as_it_comes(small_server):
    with small_server.client() as client:
        headers = {"content-type": "application/json"}
        chunks = (b" " * 1500 for _ in range(4))
        checked(client.post("/embed", content=chunks, headers=headers), 413, None)


def test_a_body_that_does_not_arrive_ends_with_its_deadline(small_server):
    host, port = small_server.rest.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=20) as client:
        head = "POST /embed HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        client.sendall(f"{head}Content-Length: 1000\r\n\r\n{{".encode())
        assert b"504" in client.recv(4096)


def test_a_full_queue_is_429_with_a_delay(small_server):
    with small_server.client() as client:
        body = {"inputs": PHOTO, "samples": 100_000, "timeout_ms": 4_000}
        statuses = []
        first = threading.Thread(
            target=lambda: statuses.append(client.post("/embed", json=body).status_code)
        )
        first.start()
        while "fcs_jobs_running 0.0" in client.get("/metrics").text:
            pass
        second = client.post("/embed", json={"inputs": PHOTO})
        checked(second, 429, None)
        assert int(second.headers["retry-after"]) >= 1
        seeded = client.post("/embed", json={"inputs": PHOTO, "seed": "00" * 16})
        checked(seeded, 422, "seed")
        assert json.loads(second.content)["error"]["type"] == "overloaded"
        first.join()
        assert statuses == [504]
