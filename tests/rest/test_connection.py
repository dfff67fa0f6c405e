"""Slow, silent and many clients at a real socket."""

import os
import signal
import socket
import time

import pytest

from tests.conftest import start_server, stop_server

HEAD_S = 1.0
LIMITS = {
    "FCS_HEAD_TIMEOUT_MS": "1000",
    "FCS_BODY_TIMEOUT_MS": "4000",
    "FCS_MAX_REQUESTS": "2",
    "FCS_MAX_CONNECTIONS": "6",
}
UPLOAD = (
    b"POST /embed HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    b"Content-Length: 1000\r\n\r\n{"
)


@pytest.fixture(scope="module")
def small():
    running = start_server(environment=LIMITS)
    yield running
    stop_server(running)


def connect(server):
    host, port = server.rest.removeprefix("http://").split(":")
    return socket.create_connection((host, int(port)), timeout=20)


def read_to_the_end(connection):
    found = b""
    try:
        while data := connection.recv(65536):
            found += data
    except ConnectionError:
        pass
    return found


def test_a_head_that_comes_byte_by_byte_is_not_waited_for(small):
    with connect(small) as slow:
        began = time.monotonic()
        with pytest.raises(ConnectionError):
            for _ in range(100):
                slow.sendall(b"G")
                time.sleep(0.1)
        assert HEAD_S <= time.monotonic() - began < 8


def test_a_client_that_says_nothing_is_told_so_and_closed(small):
    with connect(small) as silent:
        began = time.monotonic()
        answer = read_to_the_end(silent)
        assert HEAD_S * 0.9 <= time.monotonic() - began < 8
    assert answer.startswith(b"HTTP/1.1 408")
    assert b'"deadline_exceeded"' in answer


def test_a_body_that_nobody_wants_does_not_go_on_forever(small):
    with connect(small) as endless:
        endless.sendall(UPLOAD.replace(b"application/json", b"text/plain"))
        assert endless.recv(1000).startswith(b"HTTP/1.1 415")
        with pytest.raises(ConnectionError):
            for _ in range(100):
                endless.sendall(b"x")
                time.sleep(0.1)


def test_two_lengths_of_one_body_are_refused_and_nothing_after_it_is_read(small):
    """What a proxy and the service would cut apart differently (RFC 9112, 6.1)."""
    head = UPLOAD.replace(
        b"Content-Length: 1000", b"Content-Length: 4\r\nTransfer-Encoding: chunked"
    )
    hidden = b"GET /health/ready HTTP/1.1\r\nHost: x\r\n\r\n"
    with connect(small) as smuggler:
        smuggler.sendall(head[:-1] + b"0\r\n\r\n" + hidden)
        answer = read_to_the_end(smuggler)
    assert answer.startswith(b"HTTP/1.1 400")
    assert b"send one of them" in answer
    assert answer.count(b"HTTP/1.1") == 1


def test_what_is_no_request_is_not_logged_under_the_id_of_the_one_before(small):
    request = b"GET /health HTTP/1.1\r\nHost: x\r\nx-request-id: before\r\n\r\n"
    with connect(small) as mixed:
        mixed.sendall(request + b"no request at all\r\n\r\n")
        answer = read_to_the_end(mixed)
    assert answer.startswith(b"HTTP/1.1 200")
    assert b"HTTP/1.1 400" in answer
    until = time.monotonic() + 5
    while not (told := [line for line in small.log if "Invalid HTTP" in line]):
        assert time.monotonic() < until
        time.sleep(0.02)
    assert not any("before" in line for line in told)


def test_over_the_requests_in_work_the_next_is_refused_unread_but_probes_are_answered(small):
    with connect(small) as one, connect(small) as two, small.client() as client:
        for stalled in (one, two):
            stalled.sendall(UPLOAD)
        until = time.monotonic() + 3
        while "fcs_requests_running 2.0" not in client.get("/metrics").text:
            assert time.monotonic() < until
        refused = client.get("/info")
        assert refused.status_code == 429
        assert refused.json()["error"]["type"] == "overloaded"
        assert refused.headers["retry-after"] == "1"
        with connect(small) as third:
            third.sendall(UPLOAD)
            assert third.recv(100).startswith(b"HTTP/1.1 429")
        assert client.get("/health/ready").status_code == 200
        assert read_to_the_end(one).startswith(b"HTTP/1.1 504")  # the body's own limit
    with small.client() as client:
        assert client.get("/info").status_code == 200


def test_a_new_connection_takes_the_place_of_the_one_that_was_idle_longest(small):
    with connect(small) as busy:
        busy.sendall(UPLOAD)
        idle = [connect(small) for _ in range(5)]
        try:
            with small.client() as client:
                assert client.get("/health").status_code == 200
            idle[0].settimeout(HEAD_S / 2)
            assert read_to_the_end(idle[0]) == b""  # closed before its head was due
        finally:
            for one in idle:
                one.close()
        assert read_to_the_end(busy).startswith(b"HTTP/1.1 504")


def test_a_crowd_that_comes_at_once_is_held_to_the_connections_that_there_are(small):
    host, port = small.rest.removeprefix("http://").split(":")
    os.kill(small.process.pid, signal.SIGSTOP)  # all of them wait when it looks again
    try:
        crowd = [socket.create_connection((host, int(port)), timeout=20) for _ in range(60)]
    finally:
        os.kill(small.process.pid, signal.SIGCONT)
    time.sleep(HEAD_S / 2)
    there = [one for one in crowd if not closed(one)]
    for one in crowd:
        one.close()
    assert len(there) <= int(LIMITS["FCS_MAX_CONNECTIONS"])


def closed(connection):
    connection.setblocking(False)
    try:
        return connection.recv(1) == b""
    except BlockingIOError:
        return False
    except ConnectionError:
        return True


def test_a_client_that_takes_no_answers_is_closed(small):
    with connect(small) as deaf:
        deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        deaf.settimeout(0.5)
        began = time.monotonic()
        with pytest.raises(ConnectionError):
            while time.monotonic() - began < 20:
                try:
                    deaf.sendall(b"GET /openapi.json HTTP/1.1\r\nHost: x\r\n\r\n" * 20)
                except TimeoutError:
                    continue
        assert time.monotonic() - began > 3


def test_what_is_no_http_is_told_in_the_common_form(small):
    with connect(small) as strange:
        strange.sendall(b"\x16\x03\x01 hello\r\n\r\n")
        answer = read_to_the_end(strange)
    assert answer.startswith(b"HTTP/1.1 400")
    assert b'"type":"invalid_request"' in answer
