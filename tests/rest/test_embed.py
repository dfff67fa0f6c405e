"""`POST /embed` on a real server, real photos."""

import asyncio
import base64
import hashlib

import httpx
import numpy as np
import pytest

from service.rest.schemas import EmbedResponse, InfoResponse
from tests import launch
from tests.photos import EXAMPLES, locate

SEED = "00112233445566778899aabbccddeeff"
FAST = {"samples": 40, "selection_samples": 10}


def encoded(name="astronaut.png"):
    return base64.b64encode(locate(name).read_bytes()).decode()


def post(server, **body):
    with server.client() as client:
        response = client.post("/embed", json={"inputs": encoded(), **FAST, **body})
    assert response.status_code == 200, response.text
    return response.json()


@pytest.mark.parametrize(
    "name", [EXAMPLES[0], *(pytest.param(name, marks=pytest.mark.long) for name in EXAMPLES[1:])]
)
def test_real_photos_are_certified_as_well_as_promised(server, name):
    body = {"samples": 500, "selection_samples": 100, "confidence": 0.999, "sigma": 0.25}
    answer = post(server, inputs=encoded(name), radii=[0.125, 0.25], target=None, **body)
    near, far = answer["data"][0]["certificate"]["bounds"]
    assert near["bound"] >= 0.95
    assert far["bound"] >= 0.85
    assert -1 <= near["paper"] < near["bound"]
    assert near["served_bound"] < near["bound"]


def test_a_plain_request_stops_at_the_default_target(server):
    with server.client() as client:
        answer = client.post("/embed", json={"inputs": encoded()}).json()
        target = client.get("/info").json()["defaults"]["target"]
    certificate = answer["data"][0]["certificate"]
    assert target == certificate["target"] == {"radius": 0.125, "bound": 0.9}
    assert certificate["stopped"] == "target"
    assert certificate["samples"]["estimation"] <= 160
    assert certificate["samples"]["estimation"] in certificate["checkpoints"]
    assert [b["bound"] >= 0.9 for b in certificate["bounds"]][:2] == [True, True]
    assert "0.125" in certificate["statement"]


def test_a_target_stops_early_and_its_absence_beside_samples_does_not(server):
    target = {"radius": 0.1, "bound": 0.8}
    stopped = post(server, target=target, samples=2000, selection_samples=100)
    certificate = stopped["data"][0]["certificate"]
    assert (certificate["stopped"], certificate["target"]) == ("target", target)
    assert certificate["samples"]["estimation"] < 300
    for exact in (post(server), post(server, target=None)):
        certificate = exact["data"][0]["certificate"]
        assert (certificate["stopped"], certificate["target"]) == ("samples", None)
        assert certificate["samples"]["estimation"] == FAST["samples"]
        assert certificate["checkpoints"] == [FAST["samples"]]


def test_a_target_out_of_reach_is_called_infeasible_and_spares_the_samples(server):
    target = {"radius": 5, "bound": 0.9}
    certificate = post(server, target=target, samples=5000)["data"][0]["certificate"]
    assert certificate["stopped"] == "infeasible"
    assert certificate["samples"]["estimation"] < 100


def test_the_radius_of_the_target_is_always_among_the_bounds(server):
    target = {"radius": 0.11, "bound": 0.8}
    answer = post(server, target=target, samples=2000, selection_samples=100, radii=[0.05, 0.2])
    certificate = answer["data"][0]["certificate"]
    assert [b["radius"] for b in certificate["bounds"]] == [0.05, 0.2, 0.11]
    assert certificate["bounds"][2]["bound"] >= 0.8
    assert "distance 0.11 " in certificate["statement"]


def test_openapi_names_every_operation_once(server):
    with server.client() as client:
        paths = client.get("/openapi.json").json()["paths"]
        assert client.head("/health/live").status_code == 200
    names = [operation["operationId"] for path in paths.values() for operation in path.values()]
    assert len(names) == len(set(names))


def test_the_default_target_follows_sigma(server):
    with server.client() as client:
        answer = client.post("/embed", json={"inputs": encoded(), "sigma": 0.1}).json()
    assert answer["data"][0]["certificate"]["target"] == {"radius": 0.05, "bound": 0.9}


def test_the_answer_has_the_documented_form(server):
    answer = EmbedResponse.model_validate_json(httpx.Response(200, json=post(server)).content)
    (item,) = answer.data
    assert np.linalg.norm(item.embedding) == pytest.approx(1, abs=1e-5)
    assert len(item.embedding) == 1280
    certificate = item.certificate
    assert (certificate.samples.selection, certificate.samples.estimation) == (10, 40)
    assert certificate.stopped == "samples"
    assert (certificate.space.height, certificate.space.width) == (160, 160)
    assert not certificate.client_seed
    assert [b.radius for b in certificate.bounds] == [0.0625, 0.125, 0.25]


def test_bounds_come_back_in_the_order_asked(server):
    radii = [0.25, 0, 0.0625]
    bounds = post(server, radii=radii)["data"][0]["certificate"]["bounds"]
    assert [b["radius"] for b in bounds] == radii


def test_data_uris_lists_and_line_breaks_are_understood(server):
    text = encoded("coffee.png")
    broken = "\n".join(text[i : i + 76] for i in range(0, len(text), 76))
    answer = post(server, inputs=[f"data:image/png;base64,{text}", broken], seed=SEED)
    assert [item["index"] for item in answer["data"]] == [0, 1]
    one, two = (np.array(item["embedding"]) for item in answer["data"])
    assert 0.99 < one @ two < 1 - 1e-6


def test_multipart_equals_json(server):
    photo = locate("astronaut.png").read_bytes()
    with server.client() as client:
        form = client.post(
            "/embed",
            files=[("inputs", ("a.png", photo, "image/png"))],
            data={
                "samples": "40",
                "selection_samples": "10",
                "radii": ["0.125", "0.25"],
                "seed": SEED,
            },
        ).json()
    json = post(server, radii=[0.125, 0.25], seed=SEED)
    assert form["data"] == json["data"]


def test_multipart_takes_many_files_lists_and_text_pictures(server):
    photo = locate("coffee.png").read_bytes()
    with server.client() as client:
        response = client.post(
            "/embed",
            files=[("inputs", ("a.png", photo)), ("inputs", ("b.png", photo))],
            data={
                "samples": "20",
                "selection_samples": "10",
                "radii": "[0.1, 0.2]",
                "certify": "true",
            },
        )
    answer = response.json()
    assert len(answer["data"]) == 2
    assert len(answer["data"][0]["certificate"]["bounds"]) == 2


def test_base64_embeddings_hold_the_same_numbers(server):
    as_floats = post(server, seed=SEED)["data"][0]["embedding"]
    as_text = post(server, seed=SEED, encoding_format="base64")["data"][0]["embedding"]
    decoded = np.frombuffer(base64.b64decode(as_text), "<f4")
    np.testing.assert_array_equal(np.array(as_floats, np.float32), decoded)


def test_without_certify_only_the_embedding_comes_back(server):
    item = post(server, certify=False)["data"][0]
    assert item["certificate"] is None
    assert len(item["embedding"]) == 1280


def test_two_requests_draw_different_noise(server):
    one, two = (post(server)["data"][0] for _ in range(2))
    assert one["certificate"]["seed"] != two["certificate"]["seed"]
    assert one["embedding"] != two["embedding"]


def test_alone_and_among_others_the_answer_is_the_same_to_the_last_bit(server):
    """Stated tolerance: none. Every call has one shape, so company changes no rounding."""
    alone = post(server, seed=SEED)["data"]
    names = EXAMPLES

    async def crowd():
        async with httpx.AsyncClient(base_url=server.rest, timeout=300) as client:
            others = [
                client.post(
                    "/embed", json={"inputs": encoded(names[i % 3]), **FAST, "samples": 20 + i}
                )
                for i in range(8)
            ]
            same = client.post("/embed", json={"inputs": encoded(), **FAST, "seed": SEED})
            return await asyncio.gather(*others[:4], same, *others[4:])

    answers = asyncio.run(crowd())
    assert [a.status_code for a in answers] == [200] * 9
    assert answers[4].json()["data"] == alone


def test_info_tells_what_may_be_asked(server):
    with server.client() as client:
        info = InfoResponse.model_validate_json(client.get("/info").content)
    (model,) = info.models
    assert model.name == info.default_model == "efficientnet-lite0-160"
    assert 0.25 in model.sigmas
    assert (model.tuning.source, model.tuning.note) == ("package", "tune is off")
    assert info.client_seed_allowed
    assert info.limits["pictures"] == 32
    assert len(bytes.fromhex(info.public_key)) == 32
    assert "torch" in model.platform


def test_health_docs_and_openapi_answer(server):
    with server.client() as client:
        for path in ("/health", "/health/live", "/health/ready", "/docs"):
            assert client.get(path).status_code == 200
        paths = client.get("/openapi.json").json()["paths"]
        assert client.get("/").headers["location"] == "/docs"
    body = paths["/embed"]["post"]["requestBody"]["content"]
    assert set(body) == {"application/json", "multipart/form-data"}
    assert "429" in paths["/embed"]["post"]["responses"]


def metric(server, name):
    with server.client() as client:
        text = client.get("/metrics").text
    return sum(float(line.split()[-1]) for line in text.splitlines() if line.startswith(name))


def test_metrics_count_what_the_client_saw(server):
    names = (
        'fcs_requests_total{code="200",route="/embed"}',
        'fcs_samples_total{stage="estimate"}',
        'fcs_samples_total{stage="select"}',
        'fcs_bound_count{shift="0.5"}',
        'fcs_rejections_total{reason="unsupported_media_type"}',
    )
    before = [metric(server, name) for name in names]
    post(server, inputs=[encoded(), encoded("coffee.png")])
    with server.client() as client:
        client.post("/embed", content=b"x", headers={"content-type": "text/plain"})
    after = [metric(server, name) for name in names]
    assert [b - a for a, b in zip(before, after, strict=True)] == [1, 80, 20, 2, 1]
    assert metric(server, "fcs_pending_samples") == 0
    assert metric(server, "fcs_jobs_running") == 0


def test_a_client_that_leaves_stops_its_work(server):
    with pytest.raises(httpx.ReadTimeout), server.client() as client:
        client.post("/embed", json={"inputs": encoded(), "samples": 100_000}, timeout=1.5)
    answer = post(server)
    assert answer["timing"]["total_ms"] < 20_000
    assert metric(server, "fcs_jobs_running") == 0
    assert metric(server, 'fcs_requests_total{code="499",route="/embed"}') >= 1


def verify(file, *arguments):
    return launch.fcs("verify", file, *arguments)


def test_without_asking_there_is_no_receipt(server):
    assert post(server)["data"][0]["receipt"] is None


def test_a_receipt_without_a_certificate_is_refused(server):
    with server.client() as client:
        body = {"inputs": encoded(), "receipt": True, "certify": False}
        answer = client.post("/embed", json=body)
    assert answer.status_code == 422
    assert answer.json()["error"]["param"] == "receipt"


def test_a_saved_response_verifies_against_the_key_of_info(server, tmp_path):
    """Both pictures: the second one of a request has a seed of its own."""
    photos = [locate("astronaut.png"), locate("coffee.png")]
    with server.client() as client:
        answer = client.post(
            "/embed",
            files=[("inputs", photo.read_bytes()) for photo in photos],
            data={**FAST, "receipt": "true", "seed": SEED},
        )
        info = client.get("/info").content
    EmbedResponse.model_validate_json(answer.content)
    saved, key = tmp_path / "response.json", tmp_path / "info.json"
    saved.write_bytes(answer.content)
    key.write_bytes(info)
    seeds = {item["receipt"]["certificate"]["seed"] for item in answer.json()["data"]}
    assert len(seeds) == 2
    for i, photo in enumerate(photos):
        ended = verify(saved, photo, "--item", i, "--public-key", key)
        assert ended.returncode == 0, ended.stderr + ended.stdout
        assert "every value agrees" in ended.stdout
        assert "chosen by the client" in ended.stdout
    swapped = verify(saved, photos[1], "--item", 0, "--public-key", key)
    assert "the picture is not the one of this receipt" in swapped.stderr


def test_a_receipt_repeats_the_response_beside_it(server):
    for item in post(server, receipt=True, encoding_format="base64")["data"]:
        receipt = item["receipt"]
        assert receipt["certificate"] == item["certificate"]
        digest = hashlib.sha256(base64.b64decode(item["embedding"])).hexdigest()
        assert receipt["embedding"] == f"sha256:{digest}"
        assert not receipt["certificate"]["client_seed"]
