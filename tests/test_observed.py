"""A running server seen from outside: its log, its traces, its audit log."""

import json
import re
import resource
import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer

import grpc
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from service.rpc.generated import fcs_pb2 as pb
from tests.cli.conftest import run_fcs
from tests.conftest import start_server, stop_server
from tests.models.answerer import tiny_mllms
from tests.photos import locate
from tests.tiny import picture

PHOTO = locate("coffee.png")
SEED = "00112233445566778899aabbccddeeff"
KEY = "a-key-that-nobody-may-read"
REFERENCE = "is-this-name-in-the-log"
PROMPT = "is-this-prompt-in-the-log"
SMALL = {"samples": 30, "selection_samples": 10}
TRACE = "0af7651916cd43dd8448eb211c80319c"
PARENT = "b7ad6b7169203331"
HEADERS = {"authorization": f"Bearer {KEY}", "traceparent": f"00-{TRACE}-{PARENT}-01"}


class Collector:
    """Takes spans as an OpenTelemetry collector does."""

    def __init__(self):
        self.spans = spans = []

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = self.rfile.read(int(self.headers["content-length"]))
                sent = ExportTraceServiceRequest.FromString(body)
                for of_resource in sent.resource_spans:
                    for scope in of_resource.scope_spans:
                        spans.extend(scope.spans)
                self.send_response(200)
                self.end_headers()

            def log_message(self, *_):
                pass

        self.server = HTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


@pytest.fixture(scope="module")
def seen(tmp_path_factory):
    """What requests of every kind leave behind: after the server's end, which flushes all."""
    folder, collector = tmp_path_factory.mktemp("observed"), Collector()
    language = tiny_mllms.write("llava", folder / "tiny-llava")
    running = start_server(
        *("--allow-client-seed", "--log-level", "debug"),
        environment={
            "FCS_LOG_FORMAT": "json",
            "FCS_EXTRA_MODELS": json.dumps([str(language)]),
            "FCS_OTLP_ENDPOINT": collector.url,
            "FCS_AUDIT_LOG": str(folder / "audit.jsonl"),
            "FCS_CACHE_DIR": str(folder / "cache"),
        },
    )
    answers = {}
    answered = {"generation_seed": "1", "temperature": "1"}
    with running.client(headers=HEADERS) as client:
        photo = PHOTO.read_bytes()
        embed = {**SMALL, "samples": 60, "radii": [0.05, 0.1]}

        def post(name, path, files, **fields):
            data = {k: v if isinstance(v, str) else json.dumps(v) for k, v in fields.items()}
            told = {"x-request-id": name}
            answers[name] = client.post(path, files=files, data=data, headers=told)

        one = [("inputs", photo)]
        post("embed", "/embed", one, **embed)
        post("seeded", "/embed", one, **SMALL, seed=SEED, receipt=True)
        post("two", "/embed", [*one, ("inputs", picture())], **SMALL)
        post("uncertified", "/embed", one, selection_samples=10, certify=False)
        post("stream", "/embed/stream", one, **SMALL)
        nearest = [
            {"id": f"{REFERENCE}-{i}", "embedding": [float(i == j) for j in range(1280)]}
            for i in range(2)
        ]
        post("label", "/classify", one, **SMALL, references=nearest)
        post("answer", "/answer", one, **SMALL, prompt=PROMPT, max_tokens=9, **answered)
        post("vote", "/answer", one, certify=False, prompt=PROMPT, choices=["yes", "no"])
        post("spoken", "/answer", one, **SMALL, prompt=PROMPT, max_tokens=3, stream=True)
        post("refused", "/answer", one, **SMALL, prompt=PROMPT, max_tokens=0, seed=SEED)
        client.get("/nowhere%0Aforged", headers={"x-request-id": "unmatched"})
        client.get(f"/embed?key={KEY}&seed={SEED}", headers={"x-request-id": "query"})
        answers["metrics"] = client.get("/metrics")
        answers["info"] = client.get("/info").json()
    channel, stub = running.stub()
    with channel:
        metadata = [("x-request-id", "rpc"), *HEADERS.items()]
        wanted = pb.EmbedRequest(images=[picture()], seed=SEED, **SMALL)
        answers["rpc"] = stub.Embed(wanted, metadata=metadata)
        metadata[0] = ("x-request-id", "rpc-stream")
        requests = [pb.EmbedStreamRequest(id=name, request=wanted) for name in "ab"]
        list(stub.EmbedStream(iter(requests), metadata=metadata))
        metadata[0] = ("x-request-id", "rpc-refused")
        with pytest.raises(grpc.RpcError):
            stub.Embed(pb.EmbedRequest(images=[b"?"]), metadata=metadata)
    stop_server(running)
    collector.server.shutdown()
    collector.server.server_close()
    return answers, [json.loads(line) for line in running.log], running.log, collector, folder


def access(seen, request_id):
    return [
        line
        for line in seen[1]
        if line["logger"] == "service.access" and line["request_id"] == request_id
    ]


def test_every_line_of_a_server_that_tells_all_is_one_json_object(seen):
    for line in seen[1]:
        assert {"timestamp", "level", "logger", "message"} <= set(line)
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", line["timestamp"])
    assert any(line["logger"].startswith("uvicorn") for line in seen[1])


def test_no_seed_key_prompt_or_answer_is_in_the_log(seen):
    answers, _, raw, _, _ = seen
    whole = "".join(raw)
    secrets = [SEED, KEY, PROMPT, answers["answer"].json()["answer"]]
    item = answers["embed"].json()["data"][0]
    secrets += [item["certificate"]["seed"], str(max(item["embedding"]))]
    secrets += [REFERENCE]
    assert all(secrets)
    assert [secret for secret in secrets if secret in whole] == []


def test_each_request_has_one_line_with_what_it_was_and_took(seen):
    (line,) = access(seen, "embed")
    assert (line["method"], line["route"], line["status"]) == ("POST", "/embed", 200)
    assert line["samples"] >= 70
    assert line["ms"] > 0
    assert line["bytes_in"] > PHOTO.stat().st_size
    assert line["bytes_out"] == len(seen[0]["embed"].content)
    assert line["trace_id"] == TRACE
    (stream,) = access(seen, "stream")
    assert (stream["route"], stream["status"]) == ("/embed/stream", 200)
    (unmatched,) = access(seen, "unmatched")
    assert (unmatched["route"], unmatched["status"]) == ("unmatched", 404)
    (call,) = access(seen, "rpc")
    assert (call["route"], call["status"]) == ("/fcs.v1.Fcs/Embed", "OK")
    (refused,) = access(seen, "rpc-refused")
    assert refused["status"] == "INVALID_ARGUMENT"
    streamed = access(seen, "rpc-stream")
    assert [one["status"] for one in streamed] == ["OK"] * 3  # two requests, and the call
    scrapes = [line for line in seen[1] if line.get("route") == "/metrics"]
    assert {line["level"] for line in scrapes} == {"debug"}


def named(seen, name):
    return [span for span in seen[3].spans if span.name == name]


def attributes(span):
    found = {}
    for one in span.attributes:
        found[one.key] = getattr(one.value, one.value.WhichOneof("value"))
    return found


def test_a_trace_leads_from_the_caller_through_both_doors_to_the_batches(seen):
    batches = named(seen, "device.batch")
    linked = {(link.trace_id.hex(), link.span_id) for one in batches for link in one.links}
    assert {trace for trace, _ in linked} == {TRACE}
    for name in ("POST /embed", "fcs.v1.Fcs/Embed"):
        for door in named(seen, name):
            assert door.trace_id.hex() == TRACE
            assert door.parent_span_id.hex() == PARENT
            below = [span for span in seen[3].spans if span.parent_span_id == door.span_id]
            samples = [span for span in below if span.name == "sample"]
            if attributes(door).get("http.response.status_code") == 200:
                assert samples
                assert "decode" in {span.name for span in below}
            assert all((TRACE, span.span_id) in linked for span in samples)
    assert len(named(seen, "answer")) >= 3
    assert attributes(batches[0])["fcs.encode_s"] > 0


def test_no_span_holds_a_seed_a_key_a_prompt_or_an_answer(seen):
    whole = b"".join(span.SerializeToString() for span in seen[3].spans)
    assert len(seen[3].spans) > 20
    answer = seen[0]["answer"].json()["answer"]
    assert [s for s in (SEED, KEY, PROMPT, answer) if s.encode() in whole] == []
    assert not [span for span in seen[3].spans if "health" in span.name or "metrics" in span.name]


def records(folder):
    return [json.loads(line) for line in (folder / "audit.jsonl").read_text().splitlines()]


def test_each_certificate_of_every_door_is_on_record_with_a_receipt(seen):
    answers, _, _, _, folder = seen
    found = records(folder)
    assert [(r["request_id"], r["kind"], r["item"]) for r in found] == [
        ("embed", "embedding", 0),
        ("seeded", "embedding", 0),
        ("two", "embedding", 0),
        ("two", "embedding", 1),
        ("stream", "embedding", 0),
        ("label", "label", 0),
        ("answer", "answer", 0),
        ("vote", "answer", 0),
        ("spoken", "answer", 0),
        ("rpc", "embedding", 0),
        ("rpc-stream", "embedding", 0),
        ("rpc-stream", "embedding", 0),
    ]
    of = {record["request_id"]: record for record in found}
    assert of["embed"]["route"] == "/embed"
    assert of["rpc"]["route"] == "/fcs.v1.Fcs/Embed"
    for name in ("embed", "label", "answer"):
        body = answers[name].json()
        certificate = body["certificate"] if name == "answer" else body["data"][0]["certificate"]
        assert of[name]["receipt"]["certificate"] == certificate
    assert answers["embed"].json()["data"][0]["receipt"] is None
    assert of["seeded"]["receipt"] == answers["seeded"].json()["data"][0]["receipt"]
    assert of["vote"]["receipt"] is None
    assert of["vote"]["result"]["vote"]["draws"] > 0
    assert of["label"]["result"]["certified_radius"] >= 0
    kept = (folder / "audit.jsonl").read_text()
    assert PROMPT not in kept
    assert REFERENCE not in kept
    # Those of both doors so far; gRPC came after the scrape.
    assert "fcs_audit_records_total 9.0" in answers["metrics"].text
    assert "fcs_audit_failures_total 0.0" in answers["metrics"].text


def test_a_certificate_is_verified_later_from_the_record_and_the_picture_alone(seen):
    answers, _, _, _, folder = seen
    log, key = folder / "audit.jsonl", answers["info"]["public_key"]
    cache = folder / "cache"
    ended = run_fcs(
        cache, "verify", log, PHOTO, "--request", "embed", "--public-key", key, "--json"
    )
    assert ended.returncode == 0, ended.stderr
    told = json.loads(ended.stdout)
    assert (told["differences"], told["key_trusted"], told["replayed"]) == ([], True, True)
    for options, reason in (
        ((), "is an audit log: name the request"),
        (("--request", "absent"), "no record of a request 'absent'"),
        (("--request", "two"), "has 2 records of the request 'two'"),
        (("--request", "vote"), "has no receipt"),
    ):
        refused = run_fcs(cache, "verify", log, PHOTO, *options)
        assert refused.returncode == 1
        assert reason in refused.stderr


def test_the_whole_log_is_checked_at_once_and_a_changed_line_is_named(seen, tmp_path):
    answers, _, _, _, folder = seen
    log, key = folder / "audit.jsonl", answers["info"]["public_key"]
    well = run_fcs(folder, "audit", "check", log, "--public-key", key, "--complete", "--json")
    assert well.returncode == 0, well.stderr
    told = json.loads(well.stdout)
    assert (told["records"], told["receipts"], told["torn"]) == (12, 11, 0)
    changed = tmp_path / "changed.jsonl"
    changed.write_text(log.read_text().replace('"request_id":"two"', '"request_id":"too"', 1))
    ill = run_fcs(folder, "audit", "check", changed)
    assert ill.returncode == 1
    assert "changed.jsonl, line 3: signature does not match" in ill.stderr


def test_what_cannot_be_recorded_is_not_answered_until_the_log_can_be_written_again(tmp_path):
    """The system refuses to let the file grow; then it allows it again, and nobody asks."""
    path = tmp_path / "audit.jsonl"
    running = start_server(environment={"FCS_AUDIT_LOG": str(path)})
    channel, stub = running.stub()
    asked = {"files": {"inputs": picture()}, "data": {k: str(v) for k, v in SMALL.items()}}
    wanted = pb.EmbedRequest(images=[picture()], **SMALL)
    pid = running.process.pid
    before = resource.prlimit(pid, resource.RLIMIT_FSIZE)
    with running.client() as client, channel:
        assert client.post("/embed", **asked).status_code == 200
        whole = path.read_bytes()
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (len(whole) + 100, before[1]))
        refused = client.post("/embed", **asked)
        assert refused.status_code == 503
        assert "could not be recorded in the audit log" in refused.json()["error"]["message"]
        assert "File too large" in refused.json()["error"]["message"]
        ready = client.get("/health/ready")
        assert ready.status_code == 503
        assert "audit log" in ready.json()["error"]["message"]
        assert client.get("/health/live").status_code == 200
        with pytest.raises(grpc.RpcError) as error:
            stub.Embed(wanted)
        assert error.value.code() is grpc.StatusCode.UNAVAILABLE
        time.sleep(2.5)  # it tried again meanwhile
        assert path.read_bytes() == whole
        assert client.get("/health/ready").status_code == 503
        resource.prlimit(pid, resource.RLIMIT_FSIZE, before)
        until = time.monotonic() + 10
        while client.get("/health/ready").status_code != 200:
            assert time.monotonic() < until
            time.sleep(0.05)
        assert client.post("/embed", **asked).status_code == 200
        scraped = client.get("/metrics").text
        assert "fcs_audit_records_total 3.0" in scraped
        assert "fcs_audit_failures_total 1.0" in scraped
    stop_server(running)
    kinds = [json.loads(line)["kind"] for line in path.read_text().splitlines()]
    assert kinds == ["embedding", "resumed", "embedding"]
    ended = run_fcs(tmp_path, "audit", "check", path)
    assert ended.returncode == 0, ended.stderr
    assert "1 could not be written" in ended.stdout
