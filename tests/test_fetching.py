"""Fetching from real hosts on this machine; only the resolver, and what it may say, are made up."""

import asyncio
import gzip
import socket
import time

import pytest

from service.config import Settings
from service.errors import Kind, ServiceError
from service.fetching import Fetcher
from service.locations import is_public, location
from tests.pages import NAME, certificates, drip, endless, here, is_loopback, pages, say
from tests.tiny import picture

PNG = picture()


@pytest.fixture(scope="module")
def pem(tmp_path_factory):
    return certificates(tmp_path_factory.mktemp("pem"))


@pytest.fixture
def trusted(pem, monkeypatch):
    """The process trusts the authority of `pem`, as an operator would make it."""
    monkeypatch.setenv("SSL_CERT_FILE", str(pem[0]))
    return pem[1]


def fetch(port, *paths, scheme="http", resolve=here, acceptable=is_loopback, **settings):
    settings = {"fetch_timeout_ms": 5000, **settings}
    base = f"{scheme}://{NAME}:{port}"
    taken = []

    async def main():
        fetcher = Fetcher(Settings(fetch_hosts=(base,), **settings), resolve, acceptable)
        places = [
            location(base + path, fetcher.allowed, f"inputs[{i}]") for i, path in enumerate(paths)
        ]
        return await fetcher.fetch(places, taken.append)

    found = asyncio.run(main())
    assert sum(taken) == sum(map(len, found))
    return found


def refused(*arguments, **options):
    with pytest.raises(ServiceError) as caught:
        fetch(*arguments, **options)
    return caught.value


def test_pictures_come_in_the_order_of_their_urls():
    with pages({"/a": PNG, "/b": b"other"}) as (port, seen):
        assert fetch(port, "/b", "/a?x=1") == [b"other", PNG]
    asked = next(headers for path, headers, _ in seen if path == "/a?x=1")
    assert asked["Host"] == f"{NAME}:{port}"
    assert asked["Accept-Encoding"] == "identity"
    assert not {"Cookie", "Authorization", "Referer"} & set(asked)


def test_https_names_the_host_and_checks_its_certificate(trusted):
    with pages({"/a": PNG}, trusted) as (port, _):
        assert fetch(port, "/a", scheme="https") == [PNG]


def test_a_certificate_that_nobody_trusts_is_refused(pem):
    with pages({"/a": PNG}, pem[1]) as (port, seen):
        error = refused(port, "/a", scheme="https")
    assert "certificate is not valid: unable to get local issuer" in error.message
    assert seen == []


def test_a_certificate_of_another_name_is_refused(tmp_path, monkeypatch):
    authority, other = certificates(tmp_path, "elsewhere.example")
    monkeypatch.setenv("SSL_CERT_FILE", str(authority))
    with pages({"/a": PNG}, other) as (port, seen):
        assert "certificate is not valid: Hostname" in refused(port, "/a", scheme="https").message
    assert seen == []


def test_a_name_is_looked_up_once_and_the_checked_address_connected_to():
    """A resolver that says something else the second time is never asked a second time."""
    asked = []

    async def rebinding(host, port):
        asked.append(host)
        return ["127.0.0.1"] if len(asked) == 1 else ["127.0.0.2"]

    with pages({"/a": PNG}) as (port, seen):
        assert fetch(port, "/a", resolve=rebinding) == [PNG]
    assert asked == [NAME]
    assert [address for *_, address in seen] == ["127.0.0.1"]


@pytest.mark.parametrize(
    "found",
    [
        *(["127.0.0.1"], ["10.0.0.1"], ["169.254.169.254"], ["::1"], ["::ffff:8.8.8.8"]),
        *(["8.8.8.8", "127.0.0.1"], ["2606:4700::1", "fd00::1"], []),
    ],
    ids=str,
)
def test_a_name_with_any_address_that_is_not_public_is_never_connected_to(found, monkeypatch):
    async def resolve(host, port):
        return found

    async def connect(*_, **__):
        raise AssertionError("connected")

    monkeypatch.setattr(asyncio, "open_connection", connect)
    error = refused(80, "/a", resolve=resolve, acceptable=is_public)
    assert error.kind is Kind.INVALID
    assert error.param == "inputs[0]"
    assert "public addresses" in error.message


def test_the_next_address_is_tried_where_the_first_does_not_answer():
    async def two(host, port):
        return ["127.0.0.3", "127.0.0.1"]  # nothing listens on the first

    with pages({"/a": PNG}) as (port, _):
        assert fetch(port, "/a", resolve=two) == [PNG]


def test_the_environment_names_no_proxy(monkeypatch):
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    with pages({"/a": PNG}) as (port, _):
        assert fetch(port, "/a") == [PNG]


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("to", ["/b", "http://169.254.169.254/latest/meta-data"])
def test_redirects_are_not_followed(status, to):
    with pages({"/a": lambda h: say(h, b"", status, Location=to), "/b": PNG}) as (port, seen):
        error = refused(port, "/a")
    assert "redirects are not followed" in error.message
    assert [path for path, *_ in seen] == ["/a"]


@pytest.mark.parametrize("status", [201, 204, 206, 403, 404, 500])
def test_only_200_is_an_answer(status):
    with pages({"/a": lambda h: say(h, b"", status)}) as (port, _):
        error = refused(port, "/a")
    assert error.kind is Kind.INVALID
    assert f"it answered {status}" in error.message


def test_a_declared_length_over_the_limit_is_refused_before_it_arrives():
    def declared(handler):
        handler.send_response(200)
        handler.send_header("Content-Length", "5000000000")
        handler.end_headers()

    with pages({"/a": declared}) as (port, _):
        error = refused(port, "/a", max_body_bytes=2048)
    assert error.kind is Kind.TOO_LARGE
    assert "2048 bytes" in error.message


def test_an_endless_picture_is_refused_at_the_limit():
    with pages({"/a": endless}) as (port, _):
        assert refused(port, "/a", max_body_bytes=200_000).kind is Kind.TOO_LARGE


def test_the_limit_is_of_all_pictures_together():
    with pages({"/a": bytes(1500)}) as (port, _):
        assert refused(port, "/a", "/a", max_body_bytes=2048).kind is Kind.TOO_LARGE
        assert fetch(port, "/a", max_body_bytes=2048) == [bytes(1500)]


def test_a_compressed_answer_is_refused_unread():
    bomb = gzip.compress(bytes(10_000_000))
    with pages({"/a": lambda h: say(h, bomb, Content_Encoding="gzip")}) as (port, _):
        assert "compressed" in refused(port, "/a").message


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_slow_drip_ends_in_time(scheme, trusted):
    with pages({"/a": drip}, trusted if scheme == "https" else None) as (port, _):
        began = time.monotonic()
        error = refused(port, "/a", scheme=scheme, fetch_timeout_ms=600)
    assert error.kind is Kind.DEADLINE
    assert error.param == "inputs[0]"
    assert time.monotonic() - began < 5


def test_a_time_that_is_over_in_the_turn_of_the_last_byte_is_a_deadline_too():
    def held_up(_):
        time.sleep(0.5)

    async def main(port):
        base = f"http://{NAME}:{port}"
        settings = Settings(fetch_hosts=(base,), fetch_timeout_ms=300)
        fetcher = Fetcher(settings, here, is_loopback)
        places = [location(f"{base}/a", fetcher.allowed, "inputs[0]")]
        return await fetcher.fetch(places, held_up)

    with pages({"/a": PNG}) as (port, _), pytest.raises(ServiceError) as caught:
        asyncio.run(main(port))
    assert caught.value.kind is Kind.DEADLINE


def test_a_host_that_never_answers_or_resolves_ends_in_time():
    async def never(host, port):
        await asyncio.sleep(60)

    assert refused(80, "/a", resolve=never, fetch_timeout_ms=100).kind is Kind.DEADLINE
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        assert refused(port, "/a", scheme="https", fetch_timeout_ms=100).kind is Kind.DEADLINE


@pytest.mark.parametrize(
    "said",
    [
        *(b"", b"hello\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nx"),
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nx",
        b"HTTP/1.1 200 OK\r\nContent-Length: " + b"9" * 5000 + b"\r\n\r\nx",
        b"HTTP/1.1 200 OK\r\nX: " + b"x" * 100_000,
        b"HTTP/1.1 101 Switching\r\n\r\n",
    ],
    ids=["nothing", "no HTTP", "cut off", "two lengths", "long length", "long head", "switching"],
)
def test_an_answer_that_is_no_http_is_a_clear_error(said):
    def speak(handler):
        handler.wfile.write(said)
        handler.close_connection = True

    with pages({"/a": speak}) as (port, _):
        error = refused(port, "/a")
    assert error.kind is Kind.INVALID
    assert f"http://{NAME}:{port}" in error.message


def test_a_closed_port_and_an_unknown_name_are_clear_errors():
    async def unknown(host, port):
        raise socket.gaierror

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        assert "no connection" in refused(free.getsockname()[1], "/a").message
    assert "name is not known" in refused(80, "/a", resolve=unknown).message


def test_eight_at_a_time():
    busy, most = [], []

    def slow(handler):
        busy.append(1)
        most.append(len(busy))
        time.sleep(0.05)
        busy.pop()
        say(handler, PNG)

    with pages({"/a": slow}) as (port, _):
        assert fetch(port, *["/a"] * 20) == [PNG] * 20
    assert 2 <= max(most) <= 8


def test_whoever_counts_the_bytes_may_end_it():
    async def main(port):
        base = f"http://{NAME}:{port}"
        fetcher = Fetcher(Settings(fetch_hosts=(base,)), here, is_loopback)

        def full(size):
            raise ServiceError(Kind.BUSY, "full")

        await fetcher.fetch([location(f"{base}/a", fetcher.allowed, "inputs[0]")], full)

    with pages({"/a": PNG}) as (port, _), pytest.raises(ServiceError, match="full"):
        asyncio.run(main(port))


@pytest.mark.parametrize("entry", ["*.example", "127.0.0.1", "https://a.example/x"])
def test_a_list_with_what_is_no_host_stops_the_start(entry):
    from service.config import load_settings
    from service.errors import ConfigurationError

    with pytest.raises(ConfigurationError, match="fetch_hosts"):
        load_settings(fetch_hosts=(entry,))
