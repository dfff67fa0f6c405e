"""Pictures by URL at every door of REST, from a host on this machine that speaks TLS."""

import base64
import json

import pytest

from tests.conftest import start_server, stop_server
from tests.pages import NAME, certificates, pages, say
from tests.tiny import picture

PNG = picture(size=(64, 64))


@pytest.fixture(scope="module")
def host(tmp_path_factory):
    """A server that may fetch from a host of pictures; its client, the base URL, what was asked."""
    authority, certificate = certificates(tmp_path_factory.mktemp("pem"))
    answers = {"/cat.png": PNG, "/page": b"<html>", "/moved": lambda h: say(h, b"", 302)}
    with pages(answers, certificate) as (port, seen):
        environment = {
            "FCS_FETCH_HOSTS": json.dumps([f"{NAME}:{port}"]),
            "FCS_MAX_PICTURES": "4",
            "SSL_CERT_FILE": str(authority),
        }
        server = start_server("--allow-client-seed", environment=environment, module="tests.pages")
        with server.client() as client:
            yield client, f"https://{NAME}:{port}", seen
        stop_server(server)


def embedded(client, **request):
    fields = {"samples": 20, "selection_samples": 10, "target": None, "seed": "00" * 16}
    return client.post("/embed", json={**fields, **request})


def test_a_fetched_picture_is_the_picture_sent(host):
    client, base, _ = host
    sent = base64.b64encode(PNG).decode()
    answer = embedded(client, inputs=[f"{base}/cat.png", sent, f"{base}/cat.png"])
    assert answer.status_code == 200, answer.text
    again = embedded(client, inputs=[sent] * 3).json()
    assert [one["embedding"] for one in answer.json()["data"]] == [
        one["embedding"] for one in again["data"]
    ]


def test_forms_and_openai_bodies_fetch_too(host):
    client, base, _ = host
    url, small = f"{base}/cat.png", {"samples": "20", "selection_samples": "10"}
    form = client.post("/embed", files=[("inputs", (None, url)), ("inputs", PNG)], data=small)
    assert form.status_code == 200, form.text
    assert len(form.json()["data"]) == 2
    body = {"input": url, "samples": 20, "selection_samples": 10}
    assert client.post("/v1/embeddings", json=body).status_code == 200
    # This model has no language: the picture was fetched, the request refused for that.
    part = {"type": "image_url", "image_url": {"url": f"{base}/moved"}}
    chat = client.post(
        "/v1/chat/completions", json={"messages": [{"role": "user", "content": [part]}]}
    )
    assert chat.json()["error"]["param"] == "messages[0].content[0].image_url"
    assert "redirects" in chat.json()["error"]["message"]


@pytest.mark.parametrize(
    ("path", "said"),
    [("/page", "not a complete picture"), ("/moved", "redirects are not followed")],
)
def test_what_is_no_picture_is_refused_by_its_place(host, path, said):
    client, base, _ = host
    answer = embedded(client, inputs=[f"{base}/cat.png", base + path])
    assert answer.status_code == 422
    assert answer.json()["error"]["param"] == "inputs[1]"
    assert said in answer.json()["error"]["message"]


def test_nothing_is_fetched_for_a_request_that_is_refused_anyway(host):
    client, base, seen = host
    before = len(seen)
    many = embedded(client, inputs=[f"{base}/cat.png"] * 5)
    assert many.status_code == 422
    assert "allowed are 1 to 4" in many.json()["error"]["message"]
    elsewhere = embedded(client, inputs=[f"{base}/cat.png", "https://elsewhere.example/x.png"])
    assert elsewhere.status_code == 422
    assert elsewhere.json()["error"]["param"] == "inputs[1]"
    assert embedded(client, inputs=f"{base}/cat.png", sigmma=1).status_code == 422
    assert len(seen) == before
