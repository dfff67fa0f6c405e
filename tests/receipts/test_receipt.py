import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.errors import ServiceError
from service.receipts.compare import Difference, circumstances, differences
from service.receipts.reading import parse
from service.receipts.receipt import content, embedding_digest, picture_digest, sign
from service.receipts.signing import Signer
from service.types import Embedding
from tests.receipts.sample import (
    CERTIFICATE,
    HOW,
    INFO,
    SIGNER,
    VALUES,
    X,
    at,
    fields,
    places,
    put,
    text,
)

PLACES = places(fields())
DIGEST = picture_digest(X)


def test_a_receipt_is_read_back_and_its_signature_holds():
    receipt = parse(fields())
    assert receipt.signed_by(SIGNER.public_key)
    assert receipt.certificate.certified_radius.radius == 1 / 7
    assert receipt.preprocessing.value() == HOW
    assert (receipt.model.device, receipt.model.batch_size) == ("cuda", 8)


def test_how_it_is_stored_does_not_matter():
    stored = json.dumps(fields(), indent=7, ensure_ascii=True, sort_keys=False)
    assert parse(json.loads(stored)).signed_by(SIGNER.public_key)


def test_another_key_did_not_sign_it():
    assert not parse(fields()).signed_by(Signer().public_key)
    assert not parse(fields()).signed_by("00" * 32)


def changed(value):
    """Other values of the same kind, and some of none."""
    if isinstance(value, bool):
        return st.just(not value)
    if isinstance(value, (int, float)):
        near = [math.nextafter(value, math.inf), math.nextafter(value, -math.inf), value + 1]
        return st.sampled_from(near) | st.floats() | st.integers(-10, 10**6)
    if value is None:
        return st.sampled_from([0, "", [4, 5], 4])
    one = st.integers(0, len(value) - 1)
    letters = st.sampled_from("0123456789abcdefxyz")
    flipped = st.builds(lambda i, c: value[:i] + c + value[i + 1 :], one, letters)
    return flipped | st.sampled_from(["", value + "0", value[:-1], value.upper(), value + "\n"])


@given(st.data(), st.sampled_from(PLACES))
def test_any_changed_field_is_detected(data, path):
    whole = fields()
    old = at(whole, path)
    new = data.draw(changed(old).filter(lambda v: v != old and str(v) != str(old)))
    assert detected(put(whole, path, new)), (path, new)


def detected(whole):
    try:
        return not parse(whole).signed_by(SIGNER.public_key)
    except ServiceError:
        return True


@pytest.mark.parametrize("path", PLACES, ids=lambda path: ".".join(map(str, path)))
def test_any_absent_field_is_detected(path):
    whole = fields()
    del at(whole, path[:-1])[path[-1]]
    assert detected(whole)


@pytest.mark.parametrize("path", sorted({path[:-1] for path in PLACES}), ids=str)
def test_any_added_field_is_detected(path):
    whole = fields()
    holder = at(whole, path)
    holder.update(more=1) if isinstance(holder, dict) else holder.append(holder[-1])
    assert detected(whole)


def test_a_target_or_a_crop_that_is_put_in_or_taken_out_is_detected():
    assert detected(put(fields(), ("certificate", "target"), None))
    assert detected(put(fields(), ("preprocessing", "crop"), [4, 5]))


def test_shape_and_values_of_the_picture_make_its_digest():
    assert picture_digest(X) != picture_digest(X.reshape(3, 5, 4))
    other = X.copy()
    other[2, 3, 4] ^= 1
    assert picture_digest(X) != picture_digest(other)
    assert picture_digest(X) == picture_digest(np.asfortranarray(X))
    assert picture_digest(X).startswith("sha256:")
    assert embedding_digest(VALUES) == parse(fields()).embedding


def test_an_equal_replay_has_no_differences_and_no_notes():
    again = content(Embedding(VALUES, CERTIFICATE), DIGEST, INFO, HOW)
    receipt = parse(fields())
    assert differences(receipt, again) == []
    assert circumstances(receipt, again) == []


@pytest.mark.parametrize(
    ("path", "new"),
    [
        (("certificate", "bounds", 0, "bound"), math.nextafter(0.9, 1)),
        (("certificate", "samples", "estimation"), 48),
        (("certificate", "stopped"), "samples"),
        (("model", "revision"), "sha256:" + "00" * 32),
        (("embedding",), "sha256:" + "00" * 32),
        (("preprocessing", "mean", 1), 0.5),
    ],
    ids=str,
)
def test_a_replay_names_the_field_that_differs(path, new):
    whole = put(json.loads(text()), path, new)
    del whole["signature"], whole["public_key"]
    claimed = parse(json.loads(sign(whole, Signer())))
    again = content(Embedding(VALUES, CERTIFICATE), DIGEST, INFO, HOW)
    (found,) = differences(claimed, again)
    name = "".join(f"[{p}]" if isinstance(p, int) else f".{p}" for p in path).lstrip(".")
    assert found == Difference(name, new, at(fields(), path))


def test_values_that_only_one_side_has_differ_too():
    again = content(Embedding(VALUES, CERTIFICATE), DIGEST, INFO, HOW)
    again["certificate"]["target"] = None
    again["certificate"]["checkpoints"] = (48, 54)
    names = [d.field for d in differences(parse(fields()), again)]
    assert "certificate.target.radius" in names
    assert "certificate.checkpoints[2]" in names


def test_another_device_or_library_is_a_note_of_its_own():
    again = content(Embedding(VALUES, CERTIFICATE), DIGEST, INFO, HOW)
    again["model"] |= {"device": "cpu", "threads": 2, "platform": "two; torch 1"}
    again["model"] |= {"memory_format": "contiguous"}
    notes = circumstances(parse(fields()), again)
    assert notes == [
        "the kind of device differs: cuda in the receipt, cpu here",
        "the memory format differs: channels_last in the receipt, contiguous here",
        "the number of threads in one call differs: 1 in the receipt, 2 here",
        "the hardware or a library differs: one; torch 1 in the receipt, two; torch 1 here",
    ]
    assert differences(parse(fields()), again) == []
