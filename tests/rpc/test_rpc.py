"""A real gRPC channel to a real server."""

import base64
import contextlib
import json
import subprocess
import sys
import time
from pathlib import Path

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (
    ProtoReflectionDescriptorDatabase,
)

from service.receipts.reading import parse
from service.receipts.receipt import embedding_digest
from service.rpc.generated import fcs_pb2 as pb
from tests.photos import locate
from tests.pictures.test_decode import png_header
from tests.rest.test_bad_input import resident_kib
from tests.rest.test_embed import metric
from tests.tiny import picture

SEED = "00112233445566778899aabbccddeeff"
ROOT = Path(__file__).parent.parent.parent


@pytest.fixture(scope="module")
def stub(server):
    channel, stub = server.stub()
    yield stub
    channel.close()


def request_of(*images, **fields):
    defaults = {"samples": 30, "selection_samples": 10}
    return pb.EmbedRequest(images=images or [picture()], **{**defaults, **fields})


def test_grpc_and_rest_give_the_same_embedding_and_bounds(server, stub):
    photo = locate("chelsea.png").read_bytes()
    over_grpc = stub.Embed(request_of(photo, radii=[0.125, 0.25], seed=SEED)).data[0]
    with server.client() as client:
        over_rest = client.post(
            "/embed",
            files=[("inputs", ("a.png", photo))],
            data={"samples": 30, "selection_samples": 10, "radii": "[0.125, 0.25]", "seed": SEED},
        ).json()["data"][0]
    np.testing.assert_array_equal(
        np.array(over_grpc.embedding, np.float32), np.array(over_rest["embedding"], np.float32)
    )
    certificate = over_rest["certificate"]
    for one, two in zip(over_grpc.certificate.bounds, certificate["bounds"], strict=True):
        assert {f: getattr(one, f) for f in two} == two
    assert over_grpc.certificate.statement == certificate["statement"]
    assert over_grpc.certificate.seed == certificate["seed"] == SEED
    assert over_grpc.certificate.samples.estimation == 30
    assert list(over_grpc.certificate.space.range) == [0, 1]


def test_a_target_over_grpc_stops_where_it_does_over_rest(server, stub):
    photo = locate("coffee.png").read_bytes()
    target = {"radius": 0.125, "bound": 0.85}
    request = pb.EmbedRequest(images=[photo], target=pb.Target(**target), samples=1000, seed=SEED)
    over_grpc = stub.Embed(request).data[0].certificate
    with server.client() as client:
        body = {"inputs": base64.b64encode(photo).decode(), "samples": 1000, "seed": SEED}
        answer = client.post("/embed", json={**body, "target": target}).json()
    certificate = answer["data"][0]["certificate"]
    assert over_grpc.stopped == certificate["stopped"] == "target"
    assert over_grpc.samples.estimation == certificate["samples"]["estimation"]
    assert list(over_grpc.checkpoints) == certificate["checkpoints"]
    assert over_grpc.bounds[1].bound == certificate["bounds"][1]["bound"]
    exact = stub.Embed(request_of(no_target=True)).data[0].certificate
    assert (exact.stopped, exact.HasField("target")) == ("samples", False)
    with pytest.raises(grpc.RpcError, match="contradict"):
        stub.Embed(request_of(no_target=True, target=pb.Target(radius=0.1, bound=0.9)))


def test_defaults_and_certify_false(stub):
    answer = stub.Embed(request_of(picture(), picture(), certify=False))
    assert [item.index for item in answer.data] == [0, 1]
    assert not answer.data[0].HasField("certificate")
    assert np.linalg.norm(answer.data[1].embedding) == pytest.approx(1, abs=1e-5)


def test_a_receipt_rides_along_where_it_is_asked_for(stub):
    plain = stub.Embed(request_of()).data[0]
    assert not plain.HasField("receipt")
    one, two = stub.Embed(request_of(picture(), picture(), receipt=True)).data
    info = stub.Info(pb.InfoRequest())
    for item in (one, two):
        receipt = parse(json.loads(item.receipt))
        assert receipt.signed_by(info.public_key)
        assert receipt.certificate.seed == item.certificate.seed
        values = np.array(item.embedding, "<f4").tobytes()
        assert receipt.embedding == embedding_digest(values)
        assert receipt.model.platform == info.models[0].platform


def test_info(stub):
    info = stub.Info(pb.InfoRequest())
    assert info.models[0].dimensions == 1280
    assert info.defaults.samples == 1000
    assert info.limits["pictures"] == 32
    assert info.profiles["balanced"] == info.defaults
    assert info.profiles["fast"].samples < info.defaults.samples < info.profiles["strong"].samples


@pytest.mark.parametrize(
    ("request_", "param"),
    [
        (request_of(b"hello"), "inputs[0]"),
        (request_of(picture(), picture()[:50]), "inputs[1]"),
        (request_of(png_header(50_000, 50_000)), "inputs[0]"),
        (pb.EmbedRequest(), "inputs"),
        (request_of(*[picture()] * 100), "inputs"),
        (request_of(radii=[float("nan")]), "radii[0]"),
        (request_of(radii=[-0.1]), "radii[0]"),
        (request_of(sigma=0.3), "sigma"),
        (request_of(sigma=float("nan")), "sigma"),
        (request_of(samples=100_001), "samples"),
        (request_of(confidence=1.0), "confidence"),
        (request_of(model="x"), "model"),
        (request_of(model="x" * 100_000), "model"),
        (request_of(bytes(17 * 2**20)), None),
        (request_of(timeout_ms=0), "timeout_ms"),
        (request_of(timeout_ms=600_001), "timeout_ms"),
        (request_of(seed="x"), "seed"),
        (request_of(receipt=True, certify=False), "receipt"),
    ],
    ids=lambda v: v if isinstance(v, str) else "",
)
def test_bad_input_is_an_invalid_argument_that_names_its_field(stub, request_, param):
    with pytest.raises(grpc.RpcError) as caught:
        stub.Embed(request_)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert dict(caught.value.trailing_metadata()).get("fcs-param") == param


def test_unknown_fields_are_refused(server):
    channel, _ = server.stub()
    raw = channel.unary_unary("/fcs.v1.Fcs/Embed")
    unknown = request_of().SerializeToString() + b"\xf8\x07\x01"  # field 127, varint 1
    with pytest.raises(grpc.RpcError, match="unknown field number 127"):
        raw(unknown)
    channel.close()


@pytest.mark.parametrize("method", ["Embed", "Info"])
@pytest.mark.parametrize("data", [b"\xff" * 50, b"\x12\x02\xff\xfe"], ids=["noise", "text"])
def test_bytes_that_are_no_message_are_an_invalid_argument(server, method, data):
    name = f'fcs_requests_total{{code="INVALID_ARGUMENT",route="/fcs.v1.Fcs/{method}"}}'
    before = metric(server, name)
    channel, _ = server.stub()
    with pytest.raises(grpc.RpcError) as caught:
        channel.unary_unary(f"/fcs.v1.Fcs/{method}")(data)
    channel.close()
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert metric(server, name) == before + 1


MANY_PARTS = b"\x1a\x00" * 60_000  # empty messages of a conversation


@pytest.mark.parametrize(
    ("method", "data", "code", "reason"),
    [
        ("Info", bytes(16 * 2**20 + 1), "INVALID_ARGUMENT", "bytes; at most"),
        ("Answer", MANY_PARTS, "INVALID_ARGUMENT", "over 50000 parts"),
        ("Info", b"\xf8\x07\x01" * 200_000, "INVALID_ARGUMENT", "unknown field number 127"),
    ],
    ids=["large info", "many parts", "many unknown fields"],
)
def test_messages_made_to_hurt_are_refused(server, method, data, code, reason):
    channel, _ = server.stub()
    with pytest.raises(grpc.RpcError) as caught:
        channel.unary_unary(f"/fcs.v1.Fcs/{method}")(data)
    channel.close()
    assert caught.value.code().name == code
    assert reason in caught.value.details()


def test_messages_of_ended_calls_are_not_kept(server, stub):
    """One after the other; what is refused and what is answered."""
    large = picture() + bytes(8 * 2**20)  # trailing bytes are none of the decoder's business
    requests = [
        request_of(large, samples=1, selection_samples=1, certify=False),
        request_of(large, samples=1, selection_samples=10**7),
    ]

    def rounds(count):
        for _ in range(count):
            for request in requests:
                with contextlib.suppress(grpc.RpcError):
                    stub.Embed(request)

    rounds(6)
    before = resident_kib(server.process)
    rounds(20)
    assert resident_kib(server.process) - before < 120_000  # of 320 MiB that came


def test_a_timeout_over_the_limit_is_refused_with_or_without_a_deadline(stub):
    for deadline in (None, 60):
        with pytest.raises(grpc.RpcError, match="timeout_ms"):
            stub.Embed(request_of(timeout_ms=4_294_967_295), timeout=deadline)


def test_pictures_beyond_four_mebibytes_pass(stub):
    photo = locate("coffee.png").read_bytes()
    answer = stub.Embed(request_of(*[photo] * 12, samples=1, selection_samples=1))
    assert sum(map(len, [photo] * 12)) > 4 * 2**20
    assert len(answer.data) == 12


def test_a_deadline_is_honoured_and_frees_the_device(server, stub):
    with pytest.raises(grpc.RpcError) as caught:
        stub.Embed(request_of(samples=100_000), timeout=0.5)
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert stub.Embed(request_of()).timing.total_ms < 20_000
    wait_idle(server)


def test_the_requests_own_timeout_also_ends_it(stub):
    with pytest.raises(grpc.RpcError) as caught:
        stub.Embed(request_of(samples=100_000, timeout_ms=300), timeout=60)
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert "timeout_ms" in caught.value.details()


def test_cancelling_stops_the_work(server, stub):
    call = stub.Embed.future(request_of(samples=100_000))
    while metric(server, "fcs_jobs_running") == 0:
        time.sleep(0.01)
    call.cancel()
    wait_idle(server)


def wait_idle(server, seconds=10):
    until = time.monotonic() + seconds
    while metric(server, "fcs_jobs_running") > 0:
        assert time.monotonic() < until
        time.sleep(0.02)


def test_health_answers_for_the_server_and_the_service(server):
    channel, _ = server.stub()
    health = health_pb2_grpc.HealthStub(channel)
    for service in ("", "fcs.v1.Fcs"):
        status = health.Check(health_pb2.HealthCheckRequest(service=service)).status
        assert status == health_pb2.HealthCheckResponse.SERVING
    with pytest.raises(grpc.RpcError) as caught:
        health.Check(health_pb2.HealthCheckRequest(service="other"))
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND
    channel.close()


def test_reflection_lists_the_service(server):
    channel, _ = server.stub()
    services = ProtoReflectionDescriptorDatabase(channel).get_services()
    assert {"fcs.v1.Fcs", "grpc.health.v1.Health"} <= set(services)
    channel.close()


def test_calls_are_counted_by_status(server, stub):
    name = 'fcs_requests_total{code="INVALID_ARGUMENT",route="/fcs.v1.Fcs/Embed"}'
    before = metric(server, name)
    with pytest.raises(grpc.RpcError):
        stub.Embed(pb.EmbedRequest())
    assert metric(server, name) == before + 1


def test_generated_code_is_what_the_proto_file_says(tmp_path):
    subprocess.run(
        [sys.executable, "-m", "grpc_tools.protoc",
         f"--proto_path=service/rpc/generated={ROOT / 'proto' / 'fcs' / 'v1'}",
         f"--python_out={tmp_path}", f"--grpc_python_out={tmp_path}",
         "service/rpc/generated/fcs.proto"],
        check=True,
    )  # fmt: skip
    made = tmp_path / "service" / "rpc" / "generated"
    for name in ("fcs_pb2.py", "fcs_pb2_grpc.py"):
        kept = ROOT / "service" / "rpc" / "generated" / name
        assert (made / name).read_text() == kept.read_text()
