"""TLS settings that cannot be used end the start, in words."""

import pytest

from service.config import Settings, load_settings
from service.errors import ConfigurationError
from service.metrics import Metrics
from service.tls import load_tls
from tests.authority import Authority


@pytest.fixture
def files(tmp_path):
    authority = Authority()
    for name in ("one", "two"):
        certificate, key = authority.issue(name)
        (tmp_path / f"{name}.pem").write_bytes(certificate)
        (tmp_path / f"{name}.key").write_bytes(key)
    (tmp_path / "ca.pem").write_bytes(authority.pem)
    (tmp_path / "empty").write_bytes(b"")
    return tmp_path


@pytest.mark.parametrize(
    ("certificate", "key", "authority", "reason"),
    [
        ("one.pem", "two.key", None, "does not belong to the certificate"),
        ("absent", "one.key", None, "cannot read the TLS certificate"),
        ("one.pem", "absent", None, "cannot read the TLS key"),
        ("empty", "one.key", None, "are not a PEM certificate"),
        ("one.key", "one.pem", None, "are not a PEM certificate"),
        ("one.pem", "one.key", "empty", "holds no PEM certificate"),
        ("one.pem", "one.key", "absent", "cannot read the TLS client CA"),
    ],
)
def test_files_that_cannot_be_used_are_named(files, certificate, key, authority, reason):
    settings = Settings(
        tls_certificate=files / certificate,
        tls_key=files / key,
        tls_client_ca=None if authority is None else files / authority,
    )
    with pytest.raises(ConfigurationError, match=reason):
        load_tls(settings, Metrics("test"))


@pytest.mark.parametrize(
    "given",
    [
        {"tls_certificate": "one.pem"},
        {"tls_key": "one.key"},
        {"tls_client_ca": "ca.pem"},
        {"max_connections": 256},
    ],
)
def test_what_is_half_set_ends_the_start(given):
    with pytest.raises(ConfigurationError, match=r"belong together|needs|over max_requests"):
        load_settings(**given)


def test_without_files_there_is_no_tls():
    assert load_tls(Settings(), Metrics("test")) is None
