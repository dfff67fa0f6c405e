"""A real server behind API keys, TLS and client certificates, with a port for probes."""

import base64
import re
import socket
import ssl
import time
from types import SimpleNamespace

import grpc
import httpx
import openai
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from service.access.keys import digest, new_key
from service.rpc.generated import fcs_pb2 as pb
from service.rpc.generated import fcs_pb2_grpc
from tests.authority import Authority
from tests.conftest import start_server, stop_server
from tests.tiny import picture

SMALL = {"samples": 50, "selection_samples": 10, "target": None}
COST = 61  # one of them without noise


def write_keys(file, *tables):
    fresh = file.with_suffix(".new")
    fresh.write_text("\n".join(tables))
    fresh.replace(file)


def table(name, key, **limits):
    lines = [f"[keys.{name}]", f'sha256 = "{digest(key)}"']
    return "\n".join([*lines, *(f"{limit} = {value}" for limit, value in limits.items()), ""])


def body(**fields):
    return {"inputs": base64.b64encode(picture()).decode(), **SMALL, **fields}


def bearer(key):
    return {"Authorization": f"Bearer {key}"}


def metadata(key):
    return (("authorization", f"Bearer {key}"),)


@pytest.fixture(scope="module")
def secured(tmp_path_factory):
    folder = tmp_path_factory.mktemp("secured")
    authority = Authority()
    names = ("server.pem", "server.key", "ca.pem", "client.pem", "client.key", "keys.toml")
    files = {name: folder / name for name in names}
    for who in ("server", "client"):
        certificate, key = authority.issue(who)
        files[f"{who}.pem"].write_bytes(certificate)
        files[f"{who}.key"].write_bytes(key)
    files["ca.pem"].write_bytes(authority.pem)
    ann, cheap, brief = new_key(), new_key(), new_key()
    tables = [
        table("ann", ann),
        table("cheap", cheap, samples_per_minute=2 * COST),
        table("brief", brief, requests_per_minute=1),
    ]
    write_keys(files["keys.toml"], *tables)
    environment = {
        "FCS_TLS_CERTIFICATE": str(files["server.pem"]),
        "FCS_TLS_KEY": str(files["server.key"]),
        "FCS_TLS_CLIENT_CA": str(files["ca.pem"]),
        "FCS_API_KEYS": str(files["keys.toml"]),
        "FCS_PROBE_PORT": "0",
    }
    server = start_server(environment=environment)
    trust = ssl.create_default_context(cafile=files["ca.pem"])
    trust.load_cert_chain(files["client.pem"], files["client.key"])
    yield SimpleNamespace(
        server=server,
        authority=authority,
        files=files,
        tables=tables,
        trust=trust,
        ann=ann,
        cheap=cheap,
        brief=brief,
        probes=re.search(r"probes\s+(\S+)/health", "".join(server.log))[1],
    )
    stop_server(server)
    assert not any(key in "".join(server.log) for key in (ann, cheap, brief))


@pytest.fixture
def client(secured):
    with httpx.Client(base_url=secured.server.rest, verify=secured.trust, timeout=60) as made:
        yield made


@pytest.fixture
def channel(secured):
    with grpc.secure_channel(secured.server.grpc, credentials(secured)) as made:
        yield made


def credentials(secured):
    files = secured.files
    shown = files["client.key"].read_bytes(), files["client.pem"].read_bytes()
    return grpc.ssl_channel_credentials(files["ca.pem"].read_bytes(), *shown)


def test_rest_wants_a_key_for_everything_but_health(secured, client):
    for path in ("/health", "/health/live", "/health/ready", "/health/startup"):
        assert client.get(path).status_code == 200
    given = [{}, bearer(new_key()), bearer(digest(secured.ann)), {"x-api-key": "x"}]
    for path in ("/info", "/metrics", "/docs", "/openapi.json", "/v1/models", "/", "/healthy"):
        for headers in given:
            answer = client.get(path, headers=headers)
            assert answer.status_code == 401
            assert answer.headers["www-authenticate"] == "Bearer"
            assert answer.json()["error"]["type"] == "unauthenticated"
            assert "x-request-id" in answer.headers
        assert client.get(path, headers=bearer(secured.ann)).status_code in {200, 307, 404}
    assert client.get("/info", headers={"x-api-key": secured.ann}).status_code == 200


def test_without_a_key_no_byte_of_the_body_is_waited_for(secured):
    host, port = secured.server.rest.removeprefix("https://").split(":")
    head = "POST /embed HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    with (
        socket.create_connection((host, int(port)), timeout=5) as plain,
        secured.trust.wrap_socket(plain, server_hostname="localhost") as connection,
    ):
        connection.sendall(f"{head}Content-Length: 1000000\r\n\r\n".encode())
        assert connection.recv(100).startswith(b"HTTP/1.1 401")


def test_grpc_wants_a_key_for_everything_but_health(secured, channel):
    health = health_pb2_grpc.HealthStub(channel)
    assert health.Check(health_pb2.HealthCheckRequest()).status == 1
    stub = fcs_pb2_grpc.FcsStub(channel)
    listing = iter([reflection_pb2.ServerReflectionRequest(list_services="")])
    reflect = reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo
    asked = [
        lambda **m: stub.Info(pb.InfoRequest(), **m),
        lambda **m: stub.Embed(pb.EmbedRequest(images=[picture()]), **m),
        lambda **m: list(stub.Answer(pb.AnswerRequest(), **m)),
        lambda **m: list(stub.EmbedStream(iter([pb.EmbedStreamRequest()]), **m)),
        lambda **m: list(reflect(listing, **m)),
    ]
    for ask in asked:
        for given in ((), metadata(new_key()), (("x-api-key", "x"),)):
            with pytest.raises(grpc.RpcError) as refused:
                ask(metadata=given)
            assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED
    assert stub.Info(pb.InfoRequest(), metadata=metadata(secured.ann)).version
    assert stub.Info(pb.InfoRequest(), metadata=(("x-api-key", secured.ann),)).version
    listing = iter([reflection_pb2.ServerReflectionRequest(list_services="")])
    (listed,) = reflect(listing, metadata=metadata(secured.ann))
    assert "fcs.v1.Fcs" in {one.name for one in listed.list_services_response.service}


def test_the_official_openai_client_works_with_its_api_key(secured):
    trusting = httpx.Client(verify=secured.trust)
    options = {"base_url": f"{secured.server.rest}/v1", "max_retries": 0}
    uri = "data:image/png;base64," + base64.b64encode(picture()).decode()
    with openai.OpenAI(api_key=secured.ann, http_client=trusting, **options) as known:
        name = known.models.list().data[0].id
        answer = known.embeddings.create(
            model=name, input=uri, encoding_format="float", extra_body=SMALL
        )
        assert len(answer.data[0].embedding) > 0
        with pytest.raises(openai.AuthenticationError):
            known.with_options(api_key="wrong").models.list()


def test_a_client_without_a_certificate_gets_nothing_at_either_door(secured):
    trusting = ssl.create_default_context(cafile=secured.files["ca.pem"])
    with pytest.raises(httpx.HTTPError):
        httpx.get(f"{secured.server.rest}/health", verify=trusting)
    with pytest.raises(httpx.HTTPError):
        httpx.get(secured.server.rest.replace("https", "http") + "/health")
    bare = grpc.ssl_channel_credentials(secured.files["ca.pem"].read_bytes())
    with grpc.secure_channel(secured.server.grpc, bare) as channel:
        with pytest.raises(grpc.RpcError) as refused:
            fcs_pb2_grpc.FcsStub(channel).Info(
                pb.InfoRequest(), metadata=metadata(secured.ann), timeout=5
            )
        assert refused.value.code() is grpc.StatusCode.UNAVAILABLE


def test_probes_have_a_port_of_their_own_without_keys_and_tls(secured):
    for path in ("/health", "/health/startup", "/health/ready", "/health/live"):
        assert httpx.get(secured.probes + path).status_code == 200
    assert "fcs_build_info" in httpx.get(secured.probes + "/metrics").text
    for path in ("/info", "/docs", "/openapi.json", "/"):
        assert httpx.get(secured.probes + path).status_code == 404
    assert httpx.post(secured.probes + "/embed", json=body()).status_code == 404


def test_samples_of_a_key_run_out_over_both_doors_and_more_than_a_minutes_never_fit(
    secured, client, channel
):
    headers = bearer(secured.cheap)
    never = client.post("/embed", json=body(samples=1000), headers=headers)
    assert never.status_code == 422
    assert "never" in never.json()["error"]["message"]
    assert client.post("/embed", json=body(), headers=headers).status_code == 200
    stub = fcs_pb2_grpc.FcsStub(channel)
    request = pb.EmbedRequest(images=[picture()], samples=50, selection_samples=10)
    assert stub.Embed(request, metadata=metadata(secured.cheap)).data
    with pytest.raises(grpc.RpcError) as refused:
        stub.Embed(request, metadata=metadata(secured.cheap))
    assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert 0 < int(dict(refused.value.trailing_metadata())["retry-after-ms"]) <= 60_000
    over = client.post("/embed", json=body(), headers=headers)
    assert over.status_code == 429
    assert over.json()["error"]["type"] == "rate_limited"
    assert 0 < int(over.headers["retry-after"]) <= 60
    # Another key is not concerned.
    assert client.post("/embed", json=body(), headers=bearer(secured.ann)).status_code == 200


def test_each_request_of_a_stream_is_charged(secured, channel):
    stub = fcs_pb2_grpc.FcsStub(channel)
    request = pb.EmbedRequest(images=[picture()], samples=50, selection_samples=10)
    asked = iter([pb.EmbedStreamRequest(id=i, request=request) for i in "ab"])
    answers = list(stub.EmbedStream(asked, metadata=metadata(secured.brief)))
    assert sorted(one.WhichOneof("event") for one in answers) == ["error", "result"]


def test_a_key_is_withdrawn_and_another_let_in_without_a_restart(secured, client):
    late = new_key()
    kept = [one for one in secured.tables if "keys.ann" not in one]
    write_keys(secured.files["keys.toml"], *kept, table("late", late))
    eventually(lambda: client.get("/info", headers=bearer(late)).status_code == 200)
    assert client.get("/info", headers=bearer(secured.ann)).status_code == 401
    write_keys(secured.files["keys.toml"], *secured.tables)
    eventually(lambda: client.get("/info", headers=bearer(secured.ann)).status_code == 200)
    assert client.get("/info", headers=bearer(late)).status_code == 401


def test_certificates_are_exchanged_at_both_doors_without_a_restart(secured, client):
    assert client.get("/health").status_code == 200  # a connection that lives on
    before = [served(secured, door) for door in (secured.server.rest, secured.server.grpc)]
    assert before[0] == before[1]
    certificate, key = secured.authority.issue("server")
    secured.files["server.pem"].write_bytes(certificate)
    time.sleep(1.5)  # between the two, the old pair is served
    assert served(secured, secured.server.rest) == before[0]
    secured.files["server.key"].write_bytes(key)
    for door in (secured.server.rest, secured.server.grpc):
        eventually(lambda door=door: served(secured, door) != before[0])
    assert served(secured, secured.server.rest) == served(secured, secured.server.grpc)
    assert client.get("/health").status_code == 200
    with grpc.secure_channel(secured.server.grpc, credentials(secured)) as channel:
        stub = fcs_pb2_grpc.FcsStub(channel)
        assert stub.Info(pb.InfoRequest(), metadata=metadata(secured.ann)).version
    text = httpx.get(secured.probes + "/metrics").text
    assert 'fcs_tls_reloads_total{outcome="succeeded"} 1.0' in text


def test_old_versions_of_tls_are_refused(secured):
    old = ssl.create_default_context(cafile=secured.files["ca.pem"])
    old.load_cert_chain(secured.files["client.pem"], secured.files["client.key"])
    with pytest.warns(DeprecationWarning):
        old.maximum_version = ssl.TLSVersion.TLSv1_1
        old.minimum_version = ssl.TLSVersion.TLSv1
    old.set_ciphers("ALL:@SECLEVEL=0")
    for door in (secured.server.rest, secured.server.grpc):
        with pytest.raises(OSError):
            served(secured, door, old)


def test_the_start_shows_how_to_ask(secured):
    log = "".join(secured.server.log)
    asked = re.search(r"try:\s+(curl .*)", log)[1]
    assert f"--cacert {secured.files['server.pem']}" in asked
    assert "https://" in asked
    assert "$KEY" in asked


def served(secured, door, trust=None):
    """The certificate that a door shows now."""
    host, port = door.removeprefix("https://").split(":")
    trust = trust or secured.trust
    with (
        socket.create_connection((host, int(port)), timeout=10) as plain,
        trust.wrap_socket(plain, server_hostname="localhost") as connection,
    ):
        return connection.getpeercert()["serialNumber"]


def eventually(holds, seconds=10):
    until = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < until
        time.sleep(0.1)
