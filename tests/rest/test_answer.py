"""`POST /answer` and the OpenAI routes on a real server, with a tiny random language model.

What the words mean is nobody's business here; tests/test_default_model.py has a real one.
"""

import base64
import io
import json
import threading
import time

import httpx
import numpy as np
import openai
import pytest
from PIL import Image
from scipy.stats import beta

from service.rest.answers import AnswerResponse
from tests.conftest import await_end, start_server, stop_server
from tests.models.answerer import tiny_mllms

# A seed, for a random model may have nothing to say.
SEED = "0" * 31 + "1"
FAST = {"samples": 40, "answer_samples": 4, "radii": [0.05, 0.1], "sigma": 0.25, "seed": SEED}
ASK = {"prompt": "what is this ?", "max_tokens": 6, **FAST}


def picture(seed):
    rng = np.random.default_rng(seed)
    stream = io.BytesIO()
    Image.fromarray(rng.integers(0, 256, (40, 40, 3), dtype=np.uint8)).save(stream, "PNG")
    return base64.b64encode(stream.getvalue()).decode()


def uri(seed):
    return f"data:image/png;base64,{picture(seed)}"


@pytest.fixture(scope="module")
def seeing(tmp_path_factory):
    folder = tiny_mllms.write("llava", tmp_path_factory.mktemp("mllm") / "tiny-llava")
    running = start_server("--model", str(folder), "--allow-client-seed")
    yield running
    stop_server(running)


@pytest.fixture(scope="module")
def client(seeing):
    return openai.OpenAI(base_url=f"{seeing.rest}/v1", api_key="none", max_retries=0)


def post(server, route="/answer", status=200, **body):
    with server.client() as http:
        response = http.post(route, json=body)
    assert response.status_code == status, response.text
    return response.json()


def events(server, route="/answer", **body):
    found = []
    with server.client() as http, http.stream("POST", route, json=body) as response:
        assert response.status_code == 200
        assert response.headers["content-type"].startswith("text/event-stream")
        name = None
        for line in response.iter_lines():
            if line.startswith("event: "):
                name = line.removeprefix("event: ")
            elif line.startswith("data: "):
                found.append((name, line.removeprefix("data: ")))
    return found


def test_an_answer_comes_with_the_certificate_of_what_was_shown(seeing):
    answer = post(seeing, inputs=picture(0), **ASK)
    AnswerResponse.model_validate_json(json.dumps(answer))
    assert answer["answer"]
    assert answer["finish_reason"] in {"stop", "length"}
    certificate = answer["certificate"]
    assert answer["certificates"] == [certificate]
    assert certificate["samples"] == {"selection": 4, "estimation": 40}
    assert [bound["radius"] for bound in certificate["bounds"]] == [0.05, 0.1]
    assert "nothing of the words" in answer["statement"]
    assert answer["usage"]["completion_tokens"] <= 6
    assert answer["usage"]["prompt_tokens"] > 16


def test_the_same_noise_gives_the_same_answer_and_certificate(seeing):
    seeded = {"inputs": picture(0), **ASK}
    one, other = post(seeing, **seeded), post(seeing, **seeded)
    assert one["answer"] == other["answer"]
    assert one["certificate"] == other["certificate"]


def test_without_a_certificate_the_answer_is_the_same_and_nothing_is_promised(seeing):
    seeded = {"inputs": picture(0), **ASK}
    plain = post(seeing, **seeded, certify=False)
    assert plain["certificate"] is None
    assert plain["certificates"] == []
    assert plain["statement"].startswith("Nothing is certified")
    assert plain["answer"] == post(seeing, **seeded)["answer"]


def test_several_pictures_are_certified_each_and_together(seeing):
    answer = post(seeing, inputs=[picture(0), picture(1)], **ASK)
    AnswerResponse.model_validate_json(json.dumps(answer))
    each = [[bound["bound"] for bound in one["bounds"]] for one in answer["certificates"]]
    assert len(each) == 2
    assert answer["certificate"] is None
    assert answer["joint"]["confidence"] == pytest.approx(0.998)
    for k, joint in enumerate(answer["joint"]["bounds"]):
        assert joint["radius"] == FAST["radii"][k]
        assert min(each[0][k], each[1][k]) <= joint["bound"] <= max(each[0][k], each[1][k])


def test_a_stream_tells_the_text_and_then_the_whole(seeing):
    told = events(seeing, inputs=picture(0), stream=True, **ASK)
    names = [name for name, _ in told]
    assert names[-1] == "result"
    assert set(names[:-1]) == {"text"}
    result = json.loads(told[-1][1])
    AnswerResponse.model_validate_json(told[-1][1])
    assert "".join(json.loads(data)["text"] for _, data in told[:-1]) == result["answer"]


def test_messages_place_their_pictures(seeing):
    parts = [{"type": "text", "text": "the cat"}, {"type": "image"}]
    messages = [
        {"role": "user", "content": parts},
        {"role": "assistant", "content": "yes"},
        {"role": "user", "content": "what is this ?"},
    ]
    answer = post(seeing, inputs=picture(0), messages=messages, max_tokens=4, **FAST)
    assert answer["usage"]["prompt_tokens"] > 24


def test_a_stop_text_ends_the_answer_and_is_left_out(seeing):
    seeded = {"inputs": picture(0), **ASK, "max_tokens": 30}
    whole = post(seeing, **seeded)["answer"]
    stop = whole[len(whole) // 2 :][:3]
    cut = post(seeing, **seeded, stop=stop)
    assert cut["answer"] == whole[: whole.index(stop)]
    assert cut["finish_reason"] == "stop"
    told = events(seeing, **seeded, stop=[stop], stream=True)
    assert "".join(json.loads(data)["text"] for _, data in told[:-1]) == cut["answer"]


def test_stability_tells_how_many_further_answers_agree(seeing):
    answer = post(seeing, inputs=picture(0), stability_draws=5, **ASK)
    AnswerResponse.model_validate_json(json.dumps(answer))
    found = answer["stability"]
    assert found["draws"] == 5
    assert 0 <= found["agreeing"] <= 5
    assert 0 <= found["lower"] <= found["agreeing"] / 5
    assert found == post(seeing, inputs=picture(0), stability_draws=5, **ASK)["stability"]
    assert post(seeing, inputs=picture(0), **ASK)["stability"] is None


def test_further_answers_are_from_noise_of_their_own(seeing):
    """Were they from the answer's own noise, all of them would agree however short of samples."""
    few = {**ASK, "answer_samples": 1, "max_tokens": 12}
    several = [
        post(seeing, inputs=picture(i), stability_draws=16, **few)["stability"]["agreeing"]
        for i in range(3)
    ]
    assert min(several) < 16


CLOSED = {"prompt": "is this a cat ?", "choices": ["yes", "no", "a red cat"], "votes": 60, **FAST}


def test_a_closed_answer_comes_with_its_votes_and_their_radius(seeing):
    answer = post(seeing, inputs=picture(0), **CLOSED)
    AnswerResponse.model_validate_json(json.dumps(answer))
    assert answer["answer"] in CLOSED["choices"]
    assert answer["finish_reason"] == "stop"
    assert answer["certificate"]["samples"] == {"selection": 4, "estimation": 40}
    vote = answer["vote"]
    assert [choice["text"] for choice in vote["choices"]] == CLOSED["choices"]
    counts = {choice["text"]: choice["votes"] for choice in vote["choices"]}
    assert sum(counts.values()) == vote["draws"] == 60
    assert vote["agreeing"] == counts[answer["answer"]]
    assert vote["lower"] == pytest.approx(
        float(beta.ppf(0.001, vote["agreeing"], 61 - vote["agreeing"])), abs=1e-9
    )
    assert vote["abstained"] is (vote["lower"] <= 0.5)
    assert (vote["certified_radius"] > 0) is not vote["abstained"]


def test_pictures_on_both_sides_are_voted_on_and_some_votes_are_divided(seeing):
    """Votes of all alike would say nothing of the counting."""
    votes = [post(seeing, inputs=picture(i), **CLOSED)["vote"] for i in range(8)]
    counts = [tuple(choice["votes"] for choice in vote["choices"]) for vote in votes]
    assert len(set(counts)) > 1
    assert any(sum(count > 0 for count in one) > 1 for one in counts)
    for vote in votes:
        assert vote["abstained"] is (vote["certified_radius"] == 0)
        assert ("nothing is promised" in vote["statement"]) is vote["abstained"]


def test_votes_are_from_noise_of_their_own_and_need_no_certificate(seeing):
    """The same votes with and without one; the certificate is as without votes."""
    whole = post(seeing, inputs=picture(0), **CLOSED)
    bare = post(seeing, inputs=picture(0), **CLOSED, certify=False)
    assert bare["certificate"] is None
    assert bare["vote"] == whole["vote"]
    assert bare["answer"] == whole["answer"]
    plain = {name: value for name, value in CLOSED.items() if name not in {"choices", "votes"}}
    open_answer = post(seeing, inputs=picture(0), max_tokens=2, **plain)
    assert open_answer["certificate"] == whole["certificate"]
    assert open_answer["vote"] is None


def test_votes_on_several_pictures_are_on_all_together(seeing):
    answer = post(seeing, inputs=[picture(0), picture(1)], **CLOSED)
    assert answer["vote"]["draws"] == 60
    assert len(answer["certificates"]) == 2
    assert answer["joint"]["confidence"] == pytest.approx(0.998)


def test_a_stream_of_a_closed_answer_tells_the_choice_first(seeing):
    told = events(seeing, inputs=picture(0), stream=True, **CLOSED)
    assert [name for name, _ in told] == ["text", "result"]
    result = json.loads(told[-1][1])
    assert json.loads(told[0][1])["text"] == result["answer"]
    assert result["vote"]["draws"] == 60


def test_the_openai_client_gives_choices(client):
    content = [
        {"type": "image_url", "image_url": {"url": uri(0)}},
        {"type": "text", "text": "is this a cat ?"},
    ]
    asked = {"messages": [{"role": "user", "content": content}], "model": "tiny-llava"}
    body = {"choices": ["yes", "no"], "votes": 20, **FAST}
    completion = client.chat.completions.create(**asked, extra_body=body)
    assert completion.choices[0].message.content in {"yes", "no"}
    assert completion.vote["draws"] == 20
    chunks = list(client.chat.completions.create(**asked, stream=True, extra_body=body))
    assert chunks[-1].vote == completion.vote


def test_the_openai_client_asks_about_a_picture(client):
    content = [
        {"type": "image_url", "image_url": {"url": uri(0)}},
        {"type": "text", "text": "what is this ?"},
    ]
    completion = client.chat.completions.create(
        model="tiny-llava",
        messages=[{"role": "user", "content": content}],
        max_completion_tokens=6,
        temperature=0,
        extra_body=FAST,
    )
    assert completion.choices[0].message.content
    assert completion.choices[0].finish_reason in {"stop", "length"}
    assert completion.certificate["samples"] == {"selection": 4, "estimation": 40}
    assert completion.usage.total_tokens > completion.usage.completion_tokens > 0


def test_the_openai_client_reads_a_stream_with_the_certificate_at_its_end(client):
    content = [
        {"type": "text", "text": "what is this ?"},
        {"type": "image_url", "image_url": {"url": uri(0)}},
    ]
    stream = client.chat.completions.create(
        model="tiny-llava",
        messages=[{"role": "user", "content": content}],
        max_tokens=6,
        stream=True,
        stream_options={"include_usage": True},
        extra_body=FAST,
    )
    chunks = list(stream)
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert text
    assert chunks[0].choices[0].delta.role == "assistant"
    ended = [c for c in chunks if c.choices and c.choices[0].finish_reason]
    assert len(ended) == 1
    assert ended[0].certificate["bounds"][0]["radius"] == 0.05
    assert chunks[-1].usage.completion_tokens > 0


def test_the_openai_client_embeds_pictures(client):
    found = client.embeddings.create(
        model="tiny-llava", input=[uri(0), uri(1)], extra_body={"samples": 40}
    )
    assert len(found.data) == 2
    assert np.linalg.norm(found.data[0].embedding) == pytest.approx(1, abs=1e-5)
    assert found.data[1].certificate["samples"]["estimation"] == 40


def test_the_openai_client_lists_models(client):
    assert [model.id for model in client.models.list()] == ["tiny-llava"]
    assert client.models.retrieve("tiny-llava").owned_by == "fcs-serve"
    with pytest.raises(openai.NotFoundError, match="no model 'other' is loaded"):
        client.models.retrieve("other")


NO_TOKENS = {"max_tokens": None}


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"prompt": "cat " * 300}, "the model takes 127"),
        ({"prompt": "a <image> b"}, "a mark of the model's own"),
        ({"prompt": None}, "give a prompt or messages"),
        ({"inputs": []}, "0 pictures"),
        ({"inputs": [picture(0)] * 33}, "33 pictures"),
        ({"inputs": "http://example.org/a.png"}, "remote image URLs are refused"),
        ({"max_tokens": 0}, "max_tokens is 0; allowed are 1 to"),
        ({"max_tokens": 5000}, "max_tokens is 5000; allowed are 1 to"),
        ({"temperature": -1.0}, "temperature is -1.0; allowed are 0 to 2"),
        ({"top_p": 0.0}, "top_p is 0.0"),
        ({"stop": ["a"] * 5}, "at most 4 texts"),
        ({"answer_samples": 0}, "selection_samples is 0"),
        ({"prompt": None, "messages": [{"role": "tool", "content": "a"}]}, "role"),
        (
            {"prompt": None, "messages": [{"role": "assistant", "content": "a"}]},
            "must be the user's",
        ),
        ({"receipt": True}, "unknown field"),
        ({"stability_draws": 33}, "stability_draws is 33; allowed are 0 to 32"),
        ({"prompt": " "}, "the prompt says nothing"),
        ({"votes": 20}, "votes are on choices"),
        ({"choices": ["yes", "no"]}, "the answer is one of them"),
        ({**NO_TOKENS, "choices": []}, "leave choices out"),
        ({**NO_TOKENS, "choices": ["yes"]}, "1 choices; allowed are 2 to 32"),
        ({**NO_TOKENS, "choices": ["a"] * 33}, "33 choices"),
        ({**NO_TOKENS, "choices": ["yes", "no", "yes"]}, "'yes' is given twice"),
        ({**NO_TOKENS, "choices": ["yes", " "]}, "a choice must not be empty"),
        ({**NO_TOKENS, "choices": ["yes", "cat " * 51]}, "204 characters; allowed are 200"),
        ({**NO_TOKENS, "choices": ["yes", "</s>"]}, "a mark of the model's own"),
        ({**NO_TOKENS, "choices": ["a", "an"], "votes": 9}, "allowed are 10 to 1000"),
        ({**NO_TOKENS, "choices": ["a", "an"], "votes": 1001}, "allowed are 10 to 1000"),
        ({**NO_TOKENS, "choices": ["a", "an"], "temperature": 0.0}, "no token is drawn"),
        ({**NO_TOKENS, "choices": ["a", "an"], "stop": "."}, "no token is drawn"),
        ({**NO_TOKENS, "choices": ["a", "an"], "stability_draws": 2}, "no token is drawn"),
    ],
)
def test_what_cannot_be_answered_is_refused(seeing, changes, reason):
    body = {"inputs": picture(0), **ASK, **changes}
    error = post(seeing, status=422, **{k: v for k, v in body.items() if v is not None})["error"]
    assert reason in error["message"]
    assert events_refused(seeing, body) == 422


def events_refused(server, body):
    with server.client() as http:
        body = {name: value for name, value in body.items() if value is not None}
        return http.post("/answer", json={**body, "stream": True}).status_code


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("no picture", "no message holds a picture"),
        (
            [{"type": "image_url", "image_url": {"url": "https://example.org/a.png"}}],
            "remote image URLs are refused",
        ),
    ],
)
def test_the_openai_client_is_told_what_was_wrong(client, content, reason):
    with pytest.raises(openai.UnprocessableEntityError, match=reason):
        client.chat.completions.create(
            model="tiny-llava", messages=[{"role": "user", "content": content}]
        )


def test_fields_that_cannot_be_honoured_are_refused(client):
    content = [{"type": "image_url", "image_url": {"url": uri(0)}}]
    with pytest.raises(openai.UnprocessableEntityError, match="unknown field 'logprobs'"):
        client.chat.completions.create(
            model="tiny-llava", messages=[{"role": "user", "content": content}], logprobs=True
        )


def test_a_client_that_leaves_stops_the_decoding(seeing):
    """A long answer that nobody waits for; the next one does not wait for it either."""
    long = {"inputs": picture(0), **ASK, "max_tokens": 90, "certify": False}
    before = tokens(seeing)
    asking = {"json": {**long, "stream": True}}
    with seeing.client() as http, http.stream("POST", "/answer", **asking) as response:
        next(response.iter_lines())
    until = time.monotonic() + 20
    while (gone := left(seeing)) < 1 and time.monotonic() < until:
        time.sleep(0.05)
    assert gone >= 1
    assert tokens(seeing) == before


def left(server):
    with server.client() as http:
        text = http.get("/metrics").text
    lines = [one for one in text.splitlines() if 'route="/answer"' in one and 'code="499"' in one]
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines)


def tokens(server):
    with server.client() as http:
        text = http.get("/metrics").text
    (line,) = [one for one in text.splitlines() if one.startswith("fcs_answer_tokens_total ")]
    return float(line.split()[1])


def test_many_answers_at_once_say_what_they_say_alone(seeing):
    bodies = [
        {
            "inputs": picture(i),
            "seed": f"{i:032x}",
            **ASK,
            "max_tokens": 3 + 2 * i,
            "certify": False,
        }
        for i in range(6)
    ]
    alone = [post(seeing, **body)["answer"] for body in bodies]
    found = [None] * len(bodies)

    def ask(i):
        found[i] = post(seeing, **bodies[i])["answer"]

    threads = [threading.Thread(target=ask, args=(i,)) for i in range(len(bodies))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == alone


def test_a_model_without_a_language_says_so(server):
    error = post(server, status=422, inputs=picture(0), prompt="what ?")["error"]
    assert "has no language; those that answer: none is loaded" in error["message"]


def test_what_the_service_can_do_is_told(seeing, server):
    for one, answers in ((seeing, True), (server, False)):
        with one.client() as http:
            info = http.get("/info").json()
        assert info["models"][0]["answers"] is answers
        assert info["limits"]["answer_tokens"] == 1024
        assert info["limits"]["votes"] == 1000


def test_a_closed_answer_says_what_its_certificates_speak_of(seeing):
    whole = post(seeing, inputs=picture(0), **CLOSED)
    assert whole["statement"].endswith("nothing of the words of the answer; the votes do.")
    bare = post(seeing, inputs=picture(0), **CLOSED, certify=False)
    assert bare["statement"].startswith("Nothing is certified of the features; what the votes")
    # Of words, as its tokenizer has them; the end that is counted in its likelihood is not said.
    assert whole["usage"]["completion_tokens"] == len(whole["answer"].split())


def test_no_mark_of_the_model_is_taken_for_a_word(seeing):
    for mark in ("<pad>", "<fake_token_around_image>", "<global-img>"):
        body = {"inputs": picture(0), **CLOSED, "choices": ["yes", mark]}
        assert "a mark of the model's own" in post(seeing, status=422, **body)["error"]["message"]


def test_parts_of_one_request_do_not_stand_in_each_others_way(tmp_path_factory):
    """On an idle service whatever is larger than a limit is accepted, votes and all."""
    folder = tiny_mllms.write("llava", tmp_path_factory.mktemp("mllm") / "tiny-llava")
    small = start_server("--model", str(folder), environment={"FCS_MAX_PENDING_PICTURES": "1"})
    try:
        body = {**CLOSED, "seed": None}
        answer = post(small, inputs=picture(0), **{k: v for k, v in body.items() if v is not None})
        assert answer["vote"]["draws"] == 60
    finally:
        stop_server(small)


def test_an_answer_under_way_is_given_before_the_end(tmp_path_factory):
    """Votes and words alike; what comes after the signal is refused."""
    folder = tiny_mllms.write("llava", tmp_path_factory.mktemp("mllm") / "tiny-llava")
    server = start_server("--model", str(folder))
    bodies = [
        {"prompt": "is this a cat ?", "choices": ["yes", "no"], "votes": 1000, "certify": False},
        {"prompt": "what is this ?", "max_tokens": 90, "certify": False, "temperature": 2.0},
    ]
    found = [None, None]

    def ask(i):
        with server.client() as http:
            found[i] = http.post("/answer", json={"inputs": picture(0), **bodies[i]})

    threads = [threading.Thread(target=ask, args=(i,)) for i in range(2)]
    for thread in threads:
        thread.start()
    until = time.monotonic() + 20
    while gauge(server, "fcs_pending_votes") == 0 and time.monotonic() < until:
        time.sleep(0.01)
    assert gauge(server, "fcs_answers_running") >= 1
    server.process.terminate()
    for thread in threads:
        thread.join()
    assert [one.status_code for one in found] == [200, 200]
    assert found[0].json()["vote"]["draws"] == 1000
    await_end(server)


def gauge(server, name):
    with server.client() as http:
        text = http.get("/metrics").text
    (line,) = [one for one in text.splitlines() if one.startswith(f"{name} ")]
    return float(line.split()[1])


def test_a_chat_stream_names_the_model_that_answers(seeing, client):
    content = [{"type": "image_url", "image_url": {"url": uri(0)}}]
    body = {"messages": [{"role": "user", "content": content}], "stream": True, **FAST}
    told = [data for _, data in events(seeing, "/v1/chat/completions", **body, max_tokens=2)]
    assert {json.loads(data)["model"] for data in told[:-1]} == {"tiny-llava"}


@pytest.mark.parametrize("field", ["max_tokens", "max_completion_tokens"])
def test_no_tokens_at_all_are_refused(client, field):
    content = [{"type": "image_url", "image_url": {"url": uri(0)}}]
    with pytest.raises(openai.UnprocessableEntityError, match="max_tokens is 0"):
        client.chat.completions.create(
            model="tiny-llava", messages=[{"role": "user", "content": content}], **{field: 0}
        )


def test_openapi_knows_the_routes(seeing):
    paths = httpx.get(f"{seeing.rest}/openapi.json").json()["paths"]
    assert {"/answer", "/v1/chat/completions", "/v1/embeddings", "/v1/models"} <= paths.keys()
