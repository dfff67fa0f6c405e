import json
import logging
import multiprocessing
import stat

import pytest
from cryptography.hazmat.primitives import serialization as form
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, x25519

from service.config import Settings
from service.errors import ConfigurationError, ServiceError
from service.receipts.signing import Signer, load_signer, matches, read_public_key

MESSAGE = b"a message"


def pem(key, password=None):
    how = form.BestAvailableEncryption(password) if password else form.NoEncryption()
    return key.private_bytes(form.Encoding.PEM, form.PrivateFormat.PKCS8, how)


def settings(folder, **more):
    return Settings(cache_dir=folder, **more)


def test_the_first_start_makes_a_key_that_the_next_ones_keep(tmp_path):
    made, kept = load_signer(settings(tmp_path)), load_signer(settings(tmp_path))
    assert made.public_key == kept.public_key
    assert matches(kept.public_key, made.sign(MESSAGE), MESSAGE)
    (file,) = (tmp_path / "keys").iterdir()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700
    assert load_signer(settings(tmp_path / "other")).public_key != made.public_key


def start_at_once(folder, barrier, found):
    barrier.wait()
    found.put(load_signer(settings(folder)).public_key)


def test_processes_that_start_at_once_share_one_key(tmp_path):
    context = multiprocessing.get_context("forkserver")
    for round_ in range(3):
        folder, many = tmp_path / str(round_), 4
        barrier, found = context.Barrier(many), context.Queue()
        processes = [
            context.Process(target=start_at_once, args=(folder, barrier, found))
            for _ in range(many)
        ]
        for process in processes:
            process.start()
        keys = {found.get(timeout=60) for _ in processes}
        for process in processes:
            process.join()
        assert len(keys) == 1
        assert [file.name for file in (folder / "keys").iterdir()] == ["signing-key.pem"]


def test_the_operators_own_key_is_used(tmp_path):
    key = ed25519.Ed25519PrivateKey.generate()
    file = tmp_path / "key.pem"
    file.write_bytes(pem(key))
    signer = load_signer(settings(tmp_path / "cache", signing_key=file))
    assert signer.public_key == key.public_key().public_bytes_raw().hex()
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "not an unencrypted PEM"),
        (b"secret words", "not an unencrypted PEM"),
        (b"\xff" * 100, "not an unencrypted PEM"),
        (pem(ed25519.Ed25519PrivateKey.generate())[:80], "not an unencrypted PEM"),
        (pem(ed25519.Ed25519PrivateKey.generate(), b"password"), "not an unencrypted PEM"),
        (pem(ec.generate_private_key(ec.SECP256R1())), "another kind"),
        (pem(x25519.X25519PrivateKey.generate()), "another kind"),
    ],
    ids=["empty", "text", "noise", "cut", "encrypted", "ecdsa", "x25519"],
)
@pytest.mark.parametrize("named", [True, False], ids=["named", "cached"])
def test_a_key_that_cannot_be_used_ends_the_start(tmp_path, data, reason, named, caplog):
    file = tmp_path / "keys" / "signing-key.pem"
    file.parent.mkdir()
    file.write_bytes(data)
    with pytest.raises(ConfigurationError) as caught:
        load_signer(settings(tmp_path, **({"signing_key": file} if named else {})))
    assert reason in str(caught.value)
    assert str(file) in str(caught.value)
    assert "secret" not in str(caught.value) + caplog.text


def test_a_named_key_must_be_there_and_be_a_file(tmp_path):
    with pytest.raises(ConfigurationError, match="No such file"):
        load_signer(settings(tmp_path, signing_key=tmp_path / "absent"))
    with pytest.raises(ConfigurationError, match="Is a directory"):
        load_signer(settings(tmp_path, signing_key=tmp_path))


def test_where_nothing_can_be_kept_the_key_ends_with_the_process_and_the_log_says_so(caplog):
    with caplog.at_level(logging.WARNING):
        one, two = load_signer(settings("/proc/x")), load_signer(settings("/proc/x"))
    assert one.public_key != two.public_key
    assert matches(one.public_key, one.sign(MESSAGE), MESSAGE)
    assert "a key that ends with it" in caplog.text.replace("\n", " ")


def test_a_key_that_everyone_may_read_is_used_and_warned_of(tmp_path, caplog):
    load_signer(settings(tmp_path))
    assert caplog.text == ""
    (tmp_path / "keys" / "signing-key.pem").chmod(0o644)
    load_signer(settings(tmp_path))
    assert "everyone" in caplog.text


@pytest.mark.parametrize("key", ["", "00" * 31, "zz" * 32, "ff" * 32])
def test_what_is_no_key_or_signature_matches_nothing(key):
    signer = Signer()
    assert not matches(key, signer.sign(MESSAGE), MESSAGE)
    assert not matches(signer.public_key, "00" * 64, MESSAGE)
    assert not matches(signer.public_key, signer.sign(MESSAGE)[:-2], MESSAGE)


def test_a_public_key_is_read_from_text_hex_pem_and_info(tmp_path):
    key = ed25519.Ed25519PrivateKey.generate()
    text = key.public_key().public_bytes_raw().hex()
    public = form.PublicFormat.SubjectPublicKeyInfo
    files = {
        "hex": text.encode() + b"\n",
        "pem": key.public_key().public_bytes(form.Encoding.PEM, public),
        "info": json.dumps({"version": "0", "public_key": text}).encode(),
    }
    assert read_public_key(text) == read_public_key(text.upper()) == text
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
        assert read_public_key(str(tmp_path / name)) == text


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (pem(ed25519.Ed25519PrivateKey.generate()), "is a private key"),
        (b"nonsense", "holds no Ed25519 public key"),
        (b"\xff\xff", "neither a public key"),
        (b'{"public_key": null}', "holds no Ed25519 public key"),
        (b'{"public_key": "zz"}', "holds no Ed25519 public key"),
        (b"[" * 100_000, "holds no Ed25519 public key"),
        (
            ec.generate_private_key(ec.SECP256R1())
            .public_key()
            .public_bytes(form.Encoding.PEM, form.PublicFormat.SubjectPublicKeyInfo),
            "holds no Ed25519 public key",
        ),
    ],
    ids=["private", "text", "noise", "null", "info", "deep", "ecdsa"],
)
def test_a_file_without_a_public_key_is_refused(tmp_path, data, reason):
    (tmp_path / "file").write_bytes(data)
    with pytest.raises(ServiceError, match=reason):
        read_public_key(str(tmp_path / "file"))
    for nothing in ("", "absent", "ab" * 31, "x" * 5000):
        with pytest.raises(ServiceError, match="neither a public key"):
            read_public_key(nothing)
