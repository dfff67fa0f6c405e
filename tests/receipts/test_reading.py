import base64
import json

import numpy as np
import pytest

from service.errors import ServiceError
from service.receipts import reading
from service.receipts.reading import contradictions, read
from tests.receipts.sample import VALUES, fields, put, text


def without(name):
    whole = fields()
    del whole[name]
    return whole


MALFORMED = {
    b"": "not JSON",
    b"hello": "not JSON",
    b"\xff\xfe\x00": "not JSON",
    text().encode()[:-40]: "not JSON",
    b"[1, 2]": "no JSON object",
    b"null": "no JSON object",
    b'{"error": {"message": "loading", "code": 503}}': "a response that is an error: 'loading'",
    b"[" * 100_000: "not",
    b'{"format": 1, "format": 2}': "'format' is given twice",
    text().replace('"sigma":0.25', '"sigma":NaN').encode(): "NaN is no number",
    text().replace('"sigma":0.25', '"sigma":-Infinity').encode(): "Infinity is no number",
    text().replace('"sigma":0.25', '"sigma":1e999').encode(): "certificate.sigma",
    text().replace('"sigma":0.25', '"sigma":1' + "0" * 400).encode(): "certificate.sigma",
    text().replace('"sigma":0.25', '"sigma":1' + "0" * 5000).encode(): "not JSON",
    text().replace('"sigma":0.25', '"sigma":0.25,"sigma":0.5').encode(): "'sigma' is given twice",
    text().replace("sentence", "\\ud800").encode(): "not a receipt",
}
WRONG = [
    (fields() | {"service": "1\nsignature  matches the trusted key\x1b[8m"}, "control characters"),
    (put(fields(), ("model", "platform"), "one\x1b[2J"), "control characters"),
    (put(fields(), ("certificate", "statement"), "a\rb"), "control characters"),
    (without("signature"), "field signature is missing"),
    (without("model"), "field model is missing"),
    (fields() | {"extra": 1}, "unknown field extra"),
    (fields() | {"format": "fcs-receipt/2"}, "another format ('fcs-receipt/2')"),
    (fields() | {"format": 1}, "another format ('1')"),
    (fields() | {"signature": "zz"}, "signature: String should match"),
    (fields() | {"public_key": None}, "public_key: Input should be a valid string"),
    (fields() | {"issued_at": -1}, "issued_at"),
    (put(fields(), ("model", "name"), "../../elsewhere"), "model.name"),
    (put(fields(), ("model", "name"), "owner/repository"), "model.name"),
    (put(fields(), ("model", "more"), 1), "unknown field model.more"),
    (put(fields(), ("certificate", "samples", "selection"), -1), "certificate.samples.selection"),
    (put(fields(), ("certificate", "samples", "estimation"), True), "samples.estimation"),
    (put(fields(), ("certificate", "samples", "estimation"), 61), "last checkpoint"),
    (put(fields(), ("certificate", "checkpoints"), [60, 54]), "checkpoints must rise"),
    (put(fields(), ("certificate", "checkpoints"), []), "certificate.checkpoints"),
    (put(fields(), ("certificate", "sigma"), "0.25"), "certificate.sigma: Input should be a valid"),
    (put(fields(), ("certificate", "bounds", 1, "bound"), 1.5), "certificate.bounds[1].bound"),
    (put(fields(), ("certificate", "bounds", 0, "method"), "magic"), "bounds[0].method"),
    (put(fields(), ("certificate", "seed"), "short"), "certificate.seed"),
    (put(fields(), ("certificate", "stopped"), "tired"), "certificate.stopped"),
    (put(fields(), ("preprocessing", "crop"), [10**9, 10**9]), "preprocessing.crop"),
    (put(fields(), ("preprocessing", "resize"), None), "name a crop"),
]


def explained(tmp_path, data, index=None):
    file = tmp_path / "receipt.json"
    file.write_bytes(data)
    with pytest.raises(ServiceError) as caught:
        read(file, index)
    assert caught.value.message.startswith(str(file))
    assert "\n" not in caught.value.message
    assert len(caught.value.message) < 400
    return caught.value.message


@pytest.mark.parametrize(("data", "reason"), MALFORMED.items(), ids=range(len(MALFORMED)))
def test_what_is_no_clean_json_is_refused(tmp_path, data, reason):
    assert reason in explained(tmp_path, data)


@pytest.mark.parametrize(("value", "reason"), WRONG, ids=[reason for _, reason in WRONG])
def test_each_wrong_field_is_named(tmp_path, value, reason):
    assert reason in explained(tmp_path, json.dumps(value).encode())


def test_absent_folders_and_huge_files_are_refused(tmp_path, monkeypatch):
    with pytest.raises(ServiceError, match=r"cannot read .*absent: No such file"):
        read(tmp_path / "absent")
    with pytest.raises(ServiceError, match="Is a directory"):
        read(tmp_path)
    monkeypatch.setattr(reading, "MOST_BYTES", 100)
    file = tmp_path / "receipt.json"
    file.write_text(text())
    with pytest.raises(ServiceError, match="too large"):
        read(file)


def response(*embeddings):
    certificate = fields()["certificate"]
    return {
        "model": "tiny",
        "data": [
            {"index": i, "embedding": e, "certificate": certificate, "receipt": fields()}
            for i, e in enumerate(embeddings)
        ],
    }


def saved(tmp_path, value, index=None):
    file = tmp_path / "response.json"
    file.write_text(json.dumps(value))
    return read(file, index)


FLOATS = [float(v) for v in np.frombuffer(VALUES, "<f4")]


@pytest.mark.parametrize("embedding", [FLOATS, base64.b64encode(VALUES).decode()], ids=type)
def test_a_saved_response_agrees_with_its_receipt(tmp_path, embedding):
    found = saved(tmp_path, response(embedding))
    assert found.receipt == reading.parse(fields())
    assert contradictions(found) == []
    assert contradictions(saved(tmp_path, response(FLOATS, FLOATS), 1)) == []


@pytest.mark.parametrize(
    "embedding", [[0.6, 0.9], [0.6], [], "", "?", None, [[1], 2], ["a"], [1e60, 0.0], {}], ids=str
)
def test_an_embedding_that_is_not_the_receipts_is_told(tmp_path, embedding):
    (told,) = contradictions(saved(tmp_path, response(embedding)))
    assert "embedding" in told


def test_a_certificate_that_is_not_the_receipts_is_told(tmp_path):
    value = response(FLOATS)
    value["data"][0]["certificate"]["bounds"][0]["bound"] = 0.99
    value["data"][0]["receipt"] = fields()
    (told,) = contradictions(saved(tmp_path, value))
    assert "certificate" in told


def test_of_a_response_with_many_items_one_must_be_named(tmp_path):
    many = json.dumps(response(FLOATS, FLOATS)).encode()
    assert "--item 0 to 1" in explained(tmp_path, many)
    assert "no item 2" in explained(tmp_path, many, 2)
    assert "no item -1" in explained(tmp_path, many, -1)
    assert "this is none" in explained(tmp_path, text().encode(), 0)
    bare = {"data": [{"index": 0, "receipt": None}]}
    assert "the request must say" in explained(tmp_path, json.dumps(bare).encode())
    assert "0 items" in explained(tmp_path, b'{"data": []}')
