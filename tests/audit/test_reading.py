"""Whatever is done to a log afterwards is found, and named by its line."""

import json

import pytest

from service.audit import reading
from service.audit.lines import Entry, Origin, write
from service.audit.reading import check, find, is_audit_log
from service.errors import ServiceError
from service.receipts.receipt import sign
from service.receipts.signing import Signer
from tests.audit.sample import WHEN, log, opened, put
from tests.receipts.sample import SIGNER, text


@pytest.fixture
def path(tmp_path):
    return log(tmp_path / "audit.jsonl", "a", "b", "b", "d", "e")


def lines_in(path):
    return path.read_bytes().splitlines(keepends=True)


def edited(lines):
    lines[2] = lines[2].replace(b'"request_id":"b"', b'"request_id":"x"')
    return lines


def edited_receipt(lines):
    lines[1] = lines[1].replace(b'"bound":0.9,', b'"bound":0.99,')
    return lines


def forged(lines):
    """Edited, and signed again by somebody else."""
    value = json.loads(lines[2])
    del value["signature"], value["public_key"]
    lines[2] = sign(value | {"request_id": "x"}, Signer()).encode() + b"\n"
    return lines


def respaced(lines):
    lines[2] = json.dumps(json.loads(lines[2])).encode() + b"\n"
    return lines


TAMPERED = {
    "edited": (edited, "line 3: signature does not match"),
    "receipt edited": (edited_receipt, "line 2: signature does not match"),
    "forged": (forged, "line 4: the line before it is not the one"),
    "respaced": (respaced, "line 3: the line is not written as it was signed"),
    "one deleted": (lambda ls: ls[:2] + ls[3:], "line 3: record 4 comes after 2"),
    "two swapped": (lambda ls: [*ls[:1], ls[2], ls[1], *ls[3:]], "line 2: record 3 comes after 1"),
    "one repeated": (lambda ls: [*ls[:2], ls[1], *ls[2:]], "line 3: record 2 comes after 2"),
    "one garbled": (lambda ls: [*ls[:2], b"?\n", *ls[3:]], "line 3: no record"),
    "one cut off": (lambda ls: [*ls[:2], ls[2][:80] + b"\n", *ls[3:]], "line 3: no record"),
    "the last garbled": (lambda ls: [*ls[:4], b"?\n"], "line 5: no record"),
    "one blanked": (lambda ls: [*ls[:2], b"\n", *ls[3:]], "line 3: no record"),
}


@pytest.mark.parametrize(("tamper", "reason"), TAMPERED.values(), ids=TAMPERED)
def test_a_line_that_is_edited_deleted_or_moved_is_found(path, tamper, reason):
    path.write_bytes(b"".join(tamper(lines_in(path))))
    with pytest.raises(ServiceError, match=reason):
        check(path)


def test_a_key_that_is_not_trusted_is_told_even_where_its_chain_is_whole(path):
    assert check(path, {SIGNER.public_key}).records == 5
    with pytest.raises(ServiceError, match="line 1: signed by another key"):
        check(path, {Signer().public_key})


def test_a_full_file_that_is_taken_out_of_the_middle_is_found(tmp_path):
    path = log(tmp_path / "audit.jsonl", *"abcdef", most_bytes=4096)
    (tmp_path / "audit.jsonl.000002").unlink()
    with pytest.raises(ServiceError, match="comes after"):
        check(path)


def test_lines_cut_off_at_the_end_show_against_the_digest_that_was_told(path):
    before = check(path)
    path.write_bytes(b"".join(lines_in(path)[:-1]))
    after = check(path)
    assert (before.last, after.last) == (5, 4)
    assert before.end != after.end


def test_a_log_that_goes_on_to_its_next_file_while_it_is_read_checks(tmp_path, monkeypatch):
    path = tmp_path / "audit.jsonl"
    file = opened(path, most_bytes=6000)
    put(file, *"abcdef")
    listed = reading.numbered

    def goes_on(of):
        put(file, *"ghijk")
        return listed(of)

    monkeypatch.setattr(reading, "numbered", goes_on)
    report = check(path)
    assert (report.first, report.last) == (1, 12)  # all of the file that was written then
    file.close()


def test_a_request_is_found_by_its_id_in_full_files_too(tmp_path):
    path = log(tmp_path / "audit.jsonl", *"abcdef", most_bytes=4096)
    assert find(path, "a").receipt == find(path, "f").receipt
    assert is_audit_log(path)


@pytest.mark.parametrize(
    ("request_id", "index", "reason"),
    [
        ("absent", None, "no record of a request 'absent'"),
        ("b", None, "has 2 records of the request 'b': name one, --item 0 to 1"),
        ("b", 2, "no item 2: the request has 2 records"),
        ("b", -1, "no item -1"),
    ],
)
def test_what_cannot_be_found_is_told_with_what_there_is(path, request_id, index, reason):
    with pytest.raises(ServiceError, match=reason):
        find(path, request_id, index)


def test_one_of_several_is_named_by_its_place_and_an_edited_one_is_not_given_out(path):
    assert find(path, "b", 1).receipt.signed_by(SIGNER.public_key)
    path.write_bytes(b"".join(edited_receipt(lines_in(path))))
    with pytest.raises(ServiceError, match="line 2: signature does not match"):
        find(path, "b", 0)


def test_a_record_without_a_receipt_says_so(tmp_path):
    file = opened(tmp_path / "audit.jsonl")
    entry = Entry("answer", 0, None, {"answer": "sha256:" + "0" * 64})
    file.append(*write(entry, Origin("v", "key-1", "/answer"), WHEN, file.end, SIGNER))
    file.close()
    with pytest.raises(ServiceError, match="of the kind 'answer', has no receipt"):
        find(tmp_path / "audit.jsonl", "v")


def test_a_receipt_of_another_line_does_not_fit_into_a_record(path):
    """The receipt inside is signed on its own, too."""
    other = json.loads(text(Signer()))
    value = json.loads(lines_in(path)[4])
    value["receipt"] = other | {"issued_at": 1}
    del value["signature"], value["public_key"]
    lines = lines_in(path)
    lines[4] = sign(value, SIGNER).encode() + b"\n"
    path.write_bytes(b"".join(lines))
    with pytest.raises(ServiceError, match="line 5: the signature of its receipt"):
        check(path)
