"""TLS of both doors, from files that may be exchanged while the service runs.

TLS 1.2 and newer. With an authority for clients, a client without its certificate gets nothing.
"""

import ssl
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from service.changing import Changing
from service.config import Settings
from service.errors import ConfigurationError
from service.metrics import Metrics


@dataclass(frozen=True, slots=True)
class Credentials:
    """One reading of the files.

    Attributes:
        certificate: PEM chain.
        key: PEM.
        client_ca: PEM; None: clients show nothing.
        context: of the same, for a server.
    """

    certificate: bytes
    key: bytes
    client_ca: bytes | None
    context: ssl.SSLContext


Tls = Changing[Credentials]


def load_tls(settings: Settings, metrics: Metrics) -> Tls | None:
    """What the settings name; None: no TLS.

    Raises:
        ConfigurationError: a file that cannot be read, or a key of another certificate.
    """
    certificate, key, client_ca = settings.tls_certificate, settings.tls_key, settings.tls_client_ca
    if certificate is None or key is None:
        return None
    files = (certificate, key) if client_ca is None else (certificate, key, client_ca)
    return Changing(files, lambda: _read(certificate, key, client_ca), metrics.tls_reloads)


class LiveContext(ssl.SSLContext):
    """A context whose every handshake is made with the files as they are then."""

    _current: Callable[[], ssl.SSLContext]

    @classmethod
    def of(cls, tls: Tls) -> "LiveContext":
        """Over all readings to come."""
        made = cls(ssl.PROTOCOL_TLS_SERVER)
        made._current = lambda: tls.current().context
        return made

    def wrap_bio(self, *args: Any, **options: Any) -> ssl.SSLObject:
        """One connection."""
        return self._current().wrap_bio(*args, **options)


def _read(certificate: Path, key: Path, client_ca: Path | None) -> Credentials:
    chain, secret = _bytes(certificate, "certificate"), _bytes(key, "key")
    authority = None if client_ca is None else _bytes(client_ca, "client CA")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(certificate, key, password=_no_password)
    except (ssl.SSLError, ValueError) as error:
        if getattr(error, "reason", None) == "KEY_VALUES_MISMATCH":
            reason = f"the TLS key {key} does not belong to the certificate {certificate}"
        else:
            reason = f"{certificate} and {key} are not a PEM certificate and its unencrypted key"
        raise ConfigurationError(reason) from None
    if authority is not None:
        try:
            context.load_verify_locations(cadata=authority.decode())
        except (ssl.SSLError, ValueError):
            raise ConfigurationError(f"{client_ca} holds no PEM certificate") from None
        context.verify_mode = ssl.CERT_REQUIRED
    return Credentials(chain, secret, authority, context)


def _bytes(file: Path, what: str) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise ConfigurationError(
            f"cannot read the TLS {what} {file}: {error.strerror or error}"
        ) from error


def _no_password() -> str:
    """In place of asking for one on the terminal."""
    raise ValueError
