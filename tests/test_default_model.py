"""The model that `make serve` serves: the embedded encoder between its purifier and mapper."""

import asyncio
import base64
import json

import httpx
import numpy as np
import pytest

from service.config import DEFAULT_ANSWERER, DEFAULT_MODEL, load_settings
from service.models.features import served_features
from service.models.packages import find, read_manifest
from service.models.store import load_model, stores
from service.pictures.files import read_picture
from service.pictures.meanings import KINDS
from service.rpc.generated import fcs_pb2 as pb
from service.types import NoiseLevel, Stage
from tests import launch
from tests.conftest import start_server, stop_server
from tests.photos import EXAMPLES, locate

SEED = "00112233445566778899aabbccddeeff"
ENCODER = "efficientnet-lite0-160"


@pytest.fixture(scope="module")
def server():
    running = start_server("--allow-client-seed", "--model", DEFAULT_MODEL)
    yield running
    stop_server(running)


@pytest.fixture(scope="module")
def models():
    settings = load_settings(dtype="float32")
    return {name: load_model(name, settings) for name in (ENCODER, DEFAULT_MODEL)}


def photo(name="astronaut.png"):
    return locate(name).read_bytes()


def body(name="astronaut.png", **fields):
    return {"inputs": base64.b64encode(photo(name)).decode(), **fields}


def post(server, **fields):
    with server.client() as client:
        answer = client.post("/embed", json=body(**fields))
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_the_manifest_tells_weights_commands_pictures_and_scores():
    manifest = read_manifest(find(stores(load_settings()), DEFAULT_MODEL))
    psm = manifest.psm
    assert len(psm.commands) == 2
    assert all(command.startswith("fcs train ") for command in psm.commands)
    assert "stamps" not in psm.data  # what it is evaluated on
    assert all(record.package and record.licence for record in psm.data.values())
    assert {f"{kind}.cos@{s:g}" for kind in ("unet", "mapper") for s in manifest.sigmas} == set(
        psm.scores
    )
    folder = find(stores(load_settings()), DEFAULT_MODEL)
    assert sum(f.stat().st_size for f in folder.glob("*.safetensors")) < 16 * 2**20


@pytest.mark.parametrize("sigma", [0.25, 0.5])
def test_single_noisy_features_are_far_nearer_to_the_clean_one_than_without(models, sigma):
    bare, around = models[ENCODER], models[DEFAULT_MODEL]
    near, far = [], []
    for name in EXAMPLES:
        x = read_picture(locate(name), bare.preprocessing, 10**7)
        seed, noise = bytes(16), NoiseLevel(sigma)
        clean = served_features(bare, x, NoiseLevel(0.0), seed, Stage.CLEAN, 1)[0]
        near.append((served_features(around, x, noise, seed, Stage.SELECT, 8) @ clean).mean())
        far.append((served_features(bare, x, noise, seed, Stage.SELECT, 8) @ clean).mean())
    assert np.mean(near) > np.mean(far) + 0.1


def test_told_no_noise_it_is_its_encoder_to_the_last_bit(models):
    x = read_picture(locate("coffee.png"), models[ENCODER].preprocessing, 10**7)
    rows = [
        served_features(models[name], x, NoiseLevel(0.0), bytes(16), Stage.CLEAN, 1)
        for name in (ENCODER, DEFAULT_MODEL)
    ]
    assert np.array_equal(*rows)


def test_a_plain_request_is_certified_and_tells_pipeline_from_encoder(server):
    with server.client() as client:
        info = client.get("/info").json()
    model, beside = info["models"]
    assert model["name"] == DEFAULT_MODEL
    assert (beside["name"], beside["answers"]) == (DEFAULT_ANSWERER, True)
    assert set(model["psm"]) == {"purifier", "mapper"}
    certificate = post(server)["data"][0]["certificate"]
    assert certificate["stopped"] == "target"
    assert certificate["target"] == info["defaults"]["target"]
    fidelity = certificate["fidelity"]
    assert fidelity["pipeline"] != fidelity["encoder"]
    assert min(fidelity.values()) > 0.5


def test_it_answers_about_a_photo_out_of_the_box(server):
    inputs = base64.b64encode(photo("chelsea.png")).decode()
    asked = {"inputs": inputs, "prompt": "What kind of thing is this?", "seed": SEED}
    with server.client() as client:
        answer = client.post("/answer", json={**asked, "answer_samples": 16}).json()
    assert answer["model"] == DEFAULT_ANSWERER
    assert answer["answer"] in KINDS
    assert answer["certificate"]["stopped"] == "target"


def test_rest_and_grpc_answer_the_same_alone_and_among_others(server):
    fields = {"samples": 24, "selection_samples": 8, "seed": SEED}
    alone = post(server, **fields)["data"][0]
    channel, stub = server.stub()
    with channel:
        answer = stub.Embed(pb.EmbedRequest(images=[photo()], **fields))
    assert np.array_equal(np.float32(alone["embedding"]), np.float32(answer.data[0].embedding))

    async def crowd():
        async with httpx.AsyncClient(base_url=server.rest, timeout=120) as client:
            other = body("coffee.png", samples=16, selection_samples=8)
            others = [client.post("/embed", json=other) for _ in range(4)]
            return await asyncio.gather(client.post("/embed", json=body(**fields)), *others)

    among = asyncio.run(crowd())
    assert [a.status_code for a in among] == [200] * 5
    assert among[0].json()["data"][0] == alone


def test_profiles_buy_less_and_more(server):
    fast, strong = (
        post(server, profile=name)["data"][0]["certificate"] for name in ("fast", "strong")
    )
    assert fast["target"]["bound"] < strong["target"]["bound"] or (
        fast["target"]["radius"] < strong["target"]["radius"]
    )
    assert fast["samples"]["estimation"] < strong["samples"]["estimation"]
    assert fast["samples"]["selection"] < strong["samples"]["selection"]


def test_a_noise_level_it_was_not_trained_for_is_refused(server):
    with server.client() as client:
        answer = client.post("/embed", json=body(sigma=1.0))
    assert answer.status_code == 422
    assert "0.1, 0.25, 0.5" in answer.json()["error"]["message"]


def test_labels_of_the_encoders_classifier_work_through_it(server):
    with server.client() as client:
        answer = client.post(
            "/classify", json=body("coffee.png", label_set="imagenet", sigma=0.1, samples=100)
        )
    found = [one["label"] for one in answer.json()["data"][0]["candidates"]]
    assert {"espresso", "cup", "coffee mug"} & set(found)


def test_a_receipt_is_replayed(server, tmp_path):
    answer = post(server, receipt=True, samples=32, selection_samples=8)
    (tmp_path / "response.json").write_text(json.dumps(answer))
    with server.client() as client:
        (tmp_path / "info.json").write_bytes(client.get("/info").content)
    receipt, key = tmp_path / "response.json", tmp_path / "info.json"
    ended = launch.fcs("verify", receipt, locate("astronaut.png"), "--public-key", key)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "every value agrees" in ended.stdout
