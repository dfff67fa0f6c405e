"""`POST /classify` on real servers: a real photo, and a tiny model with a text tower."""

import json

import numpy as np
import pytest

from service.rest.labels import ClassifyResponse
from tests.conftest import start_server, stop_server
from tests.models import tiny_folders
from tests.photos import locate
from tests.rest.test_bad_input import PHOTO, checked
from tests.rest.test_embed import FAST, SEED, encoded

CATS = {"tabby, tabby cat", "tiger cat", "Egyptian cat", "Persian cat", "lynx, catamount"}
AXES = [{"id": f"axis {i}", "embedding": row.tolist()} for i, row in enumerate(np.eye(2, 1280))]


@pytest.fixture(scope="module")
def text_server(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiny") / "tiny-clip"
    folder.mkdir()
    tiny_folders.write_with_text("clip", folder)
    running = start_server("--model", str(folder), "--allow-client-seed")
    yield running
    stop_server(running)


def post(server, **body):
    with server.client() as client:
        response = client.post("/classify", json={"inputs": encoded(), **FAST, **body})
    assert response.status_code == 200, response.text
    ClassifyResponse.model_validate_json(response.content)
    return response.json()


def test_a_photo_of_a_cat_is_certified_to_be_a_cat(server):
    answer = post(
        server, inputs=encoded("chelsea.png"), label_set="imagenet", sigma=0.1, seed=SEED,
        samples=500, selection_samples=100,
    )  # fmt: skip
    (item,) = answer["data"]
    assert item["label"] == "tabby, tabby cat"
    assert not item["abstained"]
    assert 0.002 < item["certified_radius"] < 0.1
    assert {c["label"] for c in item["candidates"]} <= CATS
    scores = [c["score"] for c in item["candidates"]]
    assert scores == sorted(scores, reverse=True)
    assert item["score"] == scores[0]
    assert "nearest label of the 1000 is 'tabby, tabby cat'" in item["statement"]
    assert item["certificate"]["samples"] == {"selection": 100, "estimation": 500}


def test_an_ambiguous_photo_abstains(server):
    (item,) = post(server, label_set="imagenet", sigma=0.25, seed=SEED)["data"]
    assert item["abstained"]
    assert item["label"] is None
    assert item["certified_radius"] == 0
    assert len(item["candidates"]) == 5
    assert "do not settle" in item["statement"]


def test_the_nearest_reference_is_the_same_picture(server):
    """Embeddings of two photos as references; scaling them changes nothing."""
    with server.client() as client:
        photos = [encoded("chelsea.png"), encoded("coffee.png")]
        made = client.post("/embed", json={"inputs": photos, **FAST, "certify": False}).json()
    cat, coffee = (np.array(item["embedding"]) for item in made["data"])
    references = [
        {"id": "cat", "embedding": (7 * cat).tolist()},
        {"id": "coffee", "embedding": (0.1 * coffee).tolist()},
    ]
    answer = post(server, inputs=photos, references=references, samples=200)
    assert [item["label"] for item in answer["data"]] == ["cat", "coffee"]
    assert [item["index"] for item in answer["data"]] == [0, 1]
    assert min(item["certified_radius"] for item in answer["data"]) > 0.05
    assert [len(item["candidates"]) for item in answer["data"]] == [2, 2]


def test_the_certificate_is_the_one_of_embed(server):
    label = post(server, label_set="imagenet", seed=SEED)["data"][0]
    with server.client() as client:
        body = {"inputs": encoded(), **FAST, "seed": SEED}
        plain = client.post("/embed", json=body).json()["data"][0]
    assert label["certificate"] == plain["certificate"]


def test_multipart_equals_json(server):
    form = {"samples": "40", "selection_samples": "10", "seed": SEED, "label_set": "imagenet"}
    with server.client() as client:
        files = [("inputs", ("a.png", locate("astronaut.png").read_bytes()))]
        response = client.post("/classify", files=files, data=form)
        references = {**form, "references": json.dumps(AXES)}
        del references["label_set"]
        nearest = client.post("/classify", files=files, data=references)
    assert response.json()["data"] == post(server, label_set="imagenet", seed=SEED)["data"]
    assert nearest.json()["data"] == post(server, references=AXES, seed=SEED)["data"]


def test_info_lists_what_can_be_asked(server, text_server):
    with server.client() as client:
        (model,) = client.get("/info").json()["models"]
        document = client.get("/openapi.json")
    assert "#/$defs" not in document.text
    paths = document.json()["paths"]
    assert model["label_sets"] == [{"name": "imagenet", "size": 1000}]
    assert not model["text_labels"]
    schema = paths["/classify"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert {"labels", "label_set", "references", "template"} <= set(schema["properties"])
    with text_server.client() as client:
        (model,) = client.get("/info").json()["models"]
    assert model["label_sets"] == []
    assert model["text_labels"]


def test_labels_as_text(text_server):
    answer = post(text_server, labels=["cat", "red dog", "7"], seed=SEED)
    item = answer["data"][0]
    assert {c["label"] for c in item["candidates"]} == {"cat", "red dog", "7"}
    other = post(text_server, labels=["cat", "red dog", "7"], template="two {}", seed=SEED)
    assert other["data"][0]["candidates"] != item["candidates"]
    with text_server.client() as client:
        form = {**{k: str(v) for k, v in FAST.items()}, "seed": SEED}
        files = [("inputs", ("a.png", locate("astronaut.png").read_bytes()))]
        repeated = client.post(
            "/classify", files=files, data={**form, "labels": ["cat", "red dog", "7"]}
        )
    assert repeated.json()["data"] == answer["data"]


def reference(embedding, name="x"):
    return {"id": name, "embedding": embedding}


UNIT = AXES[0]["embedding"]
BAD = {
    "nothing to choose among": ({}, "labels"),
    "two choices": ({"label_set": "imagenet", "references": AXES}, "references"),
    "labels beside a set": ({"label_set": "imagenet", "labels": ["a", "b"]}, "label_set"),
    "text for a model without": ({"labels": ["cat", "dog"]}, "labels"),
    "unknown set": ({"label_set": "pets"}, "label_set"),
    "a set that is no text": ({"label_set": 7}, "label_set"),
    "a template without texts": ({"label_set": "imagenet", "template": "a {}"}, "template"),
    "certify false": ({"label_set": "imagenet", "certify": False}, "certify"),
    "an encoding": ({"label_set": "imagenet", "encoding_format": "base64"}, "encoding_format"),
    "unsupported sigma": ({"label_set": "imagenet", "sigma": 0.3}, "sigma"),
    "no references": ({"references": []}, "references"),
    "one reference": ({"references": AXES[:1]}, "references"),
    "too many references": (
        {"references": [reference([], str(i)) for i in range(10_001)]}, "references"
    ),
    "far too many": ({"references": [reference([])] * 100_000}, "references"),
    "a reference twice": ({"references": [AXES[0], AXES[0]]}, "references[1].id"),
    "no id": ({"references": [AXES[0], {"embedding": UNIT}]}, "references[1].id"),
    "an empty id": ({"references": [AXES[0], reference(UNIT, " ")]}, "references[1].id"),
    "a long id": ({"references": [AXES[0], reference(UNIT, "x" * 1001)]}, "references[1].id"),
    "an unknown field": ({"references": [AXES[0], {**AXES[1], "z": 1}]}, "references[1].z"),
    "wrong length": ({"references": [AXES[0], reference([1.0, 2.0])]}, "references[1].embedding"),
    "empty": ({"references": [AXES[0], reference([])]}, "references[1].embedding"),
    "zero": ({"references": [AXES[0], reference([0.0] * 1280)]}, "references[1].embedding"),
    "text": ({"references": [AXES[0], reference(["a"] * 1280)]}, "references[1].embedding[0]"),
    "the same direction": (
        {"references": [AXES[0], AXES[1], reference([5.0 * v for v in UNIT])]},
        "references[2].embedding",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_each_malformed_request_gets_its_field(server, case):
    body, param = BAD[case]
    with server.client() as client:
        checked(client.post("/classify", json={"inputs": PHOTO, **FAST, **body}), 422, param)


def test_references_as_base64_are_those_of_embed(server):
    body = {"inputs": PHOTO, "samples": 1, "certify": False, "encoding_format": "base64"}
    with server.client() as client:
        one = client.post("/embed", json=body).json()["data"][0]["embedding"]
    references = [{"id": "itself", "embedding": one}, {"id": "axis", "embedding": UNIT}]
    (item,) = post(server, inputs=PHOTO, references=references, samples=100)["data"]
    assert (item["label"], item["candidates"][0]["score"] > 0.99) == ("itself", True)


@pytest.mark.parametrize("embedding", ["?", "AAAA=", "AAAAAAA="])
def test_references_that_are_no_base64_of_floats_are_refused(server, embedding):
    with server.client() as client:
        body = {"inputs": PHOTO, "references": [AXES[0], reference(embedding)]}
        checked(client.post("/classify", json=body), 422, "references[1].embedding")


def test_a_body_of_millions_of_values_is_refused_before_it_is_parsed(server):
    numbers = "[" + ",".join("1" * 1_100_000) + "]"
    text = f'{{"inputs": "{PHOTO}", "references": [{{"id": "a", "embedding": {numbers}}}]}}'
    with server.client() as client:
        answer = client.post(
            "/classify", content=text, headers={"content-type": "application/json"}
        )
        checked(answer, 413, None)
        assert "base64" in answer.json()["error"]["message"]


def test_a_reference_that_is_not_finite_is_refused(server):
    body = json.dumps({"inputs": PHOTO, "references": [AXES[0], reference([float("nan")] * 1280)]})
    with server.client() as client:
        answer = client.post(
            "/classify", content=body, headers={"content-type": "application/json"}
        )
    checked(answer, 422, "references[1].embedding[0]")


BAD_TEXTS = {
    "one label": ({"labels": ["cat"]}, "labels"),
    "no labels": ({"labels": []}, "labels"),
    "too many labels": ({"labels": [str(i) for i in range(1001)]}, "labels"),
    "an empty label": ({"labels": ["cat", " "]}, "labels[1]"),
    "a label twice": ({"labels": ["cat", "dog", "cat"]}, "labels[2]"),
    "a long label": ({"labels": ["cat", "dog " * 30]}, "labels[1]"),
    "a huge label": ({"labels": ["cat", "x" * 5000]}, "labels[1]"),
    "a number": ({"labels": ["cat", 7]}, "labels[1]"),
    "labels that read the same": ({"labels": ["cat", "dog", "zebra", "gnu"]}, "labels[3]"),
    "a template with no place": ({"labels": ["cat", "dog"], "template": "a photo"}, "template"),
    "a template with two": ({"labels": ["cat", "dog"], "template": "{} {}"}, "template"),
    "a set it lacks": ({"label_set": "imagenet"}, "label_set"),
}


@pytest.mark.parametrize("case", BAD_TEXTS)
def test_each_malformed_list_of_texts_gets_its_field(text_server, case):
    body, param = BAD_TEXTS[case]
    with text_server.client() as client:
        checked(client.post("/classify", json={"inputs": PHOTO, **FAST, **body}), 422, param)


def test_a_refusal_names_what_the_model_offers(server):
    with server.client() as client:
        answer = client.post("/classify", json={"inputs": PHOTO, "labels": ["cat", "dog"]})
    message = answer.json()["error"]["message"]
    assert "no text tower with a tokenizer; it offers label_set: 'imagenet', references" in message


def test_the_deadline_covers_the_label_too(server):
    body = {"inputs": PHOTO, "label_set": "imagenet", "samples": 50_000, "timeout_ms": 300}
    with server.client() as client:
        checked(client.post("/classify", json=body), 504, None)


def test_values_spread_over_the_fields_of_a_form_are_counted_together(server):
    part = json.dumps([{"id": "a", "embedding": [1] * 300_000}])
    fields = [("references", (None, part)) for _ in range(4)]
    photo = locate("coffee.png").read_bytes()
    with server.client() as client:
        answer = client.post("/classify", files=[("inputs", ("a.png", photo)), *fields])
    checked(answer, 413, None)
