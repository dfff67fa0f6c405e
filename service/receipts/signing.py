"""The Ed25519 key of the receipts: read, made once, never shown.

Keys and signatures travel as lower-case hexadecimal digits: unlike base64, one text for each value.
"""

import json
import logging
import os
import re
import secrets
from pathlib import Path

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
    load_pem_public_key,
)

from service.config import Settings
from service.errors import ConfigurationError, invalid, shown

_log = logging.getLogger(__name__)
_FILE = Path("keys") / "signing-key.pem"
_MOST_BYTES = 1024 * 1024  # an `/info` answer at most
_KEY = re.compile(r"[0-9a-f]{64}")


class Signer:
    """Holds the private key.

    Args:
        key: None makes one that ends with the process.
    """

    def __init__(self, key: Ed25519PrivateKey | None = None) -> None:
        self._key = key or Ed25519PrivateKey.generate()
        self.public_key = self._key.public_key().public_bytes_raw().hex()

    def sign(self, message: bytes) -> str:
        """Signature, 128 hex digits."""
        return self._key.sign(message).hex()


def matches(public_key: str, signature: str, message: bytes) -> bool:
    """Whether this key signed this message; both in hex."""
    try:
        key = Ed25519PublicKey.from_public_bytes(bytes.fromhex(public_key))
        key.verify(bytes.fromhex(signature), message)
    except (InvalidSignature, ValueError):
        return False
    return True


def load_signer(settings: Settings) -> Signer:
    """The operator's key, else the one of the cache folder, which the first start makes.

    Where the cache folder cannot be written, the key ends with the process; the log says so.

    Raises:
        ConfigurationError: a key file that exists, or was named, and cannot be used.
    """
    if settings.signing_key is not None:
        return _read(settings.signing_key)
    file = settings.cache_dir / _FILE
    try:
        if not file.exists():
            _make(file)
    except OSError as error:
        _log.warning(
            "no signing key can be kept in %s (%s): receipts of this process are signed by a key"
            " that ends with it; set signing_key to a file",
            file.parent,
            error.strerror or error,
        )
        return Signer()
    return _read(file)


def read_public_key(given: str) -> str:
    """A key to trust, in hex: 64 hex digits, or a file that holds them, a PEM, or `GET /info`.

    Raises:
        ServiceError: invalid, when it is none of these.
    """
    if _KEY.fullmatch(given.strip().lower()):
        return given.strip().lower()
    try:
        with Path(given).open("rb") as stream:
            text = stream.read(_MOST_BYTES).decode().strip()
    except (OSError, ValueError) as error:
        raise invalid(
            f"{shown(given)} is neither a public key (64 hex digits) nor a file that holds one"
        ) from error
    if _KEY.fullmatch(text.lower()):
        return text.lower()
    if "PRIVATE KEY" in text:
        raise invalid(f"{given} is a private key: give the public one, and keep this one secret")
    if (found := _of_pem(text) or _of_info(text)) is not None:
        return found
    raise invalid(
        f"{given} holds no Ed25519 public key: 64 hex digits, a PEM or the answer of GET /info"
    )


def _of_pem(text: str) -> str | None:
    try:
        key = load_pem_public_key(text.encode())
    except (ValueError, UnsupportedAlgorithm):
        return None
    return key.public_bytes_raw().hex() if isinstance(key, Ed25519PublicKey) else None


def _of_info(text: str) -> str | None:
    try:
        info = json.loads(text)
    except (ValueError, RecursionError):
        return None
    key = info.get("public_key") if isinstance(info, dict) else None
    return key if isinstance(key, str) and _KEY.fullmatch(key) else None


def _read(file: Path) -> Signer:
    try:
        with file.open("rb") as stream:
            pem = stream.read(_MOST_BYTES)
            mode = os.fstat(stream.fileno()).st_mode
    except OSError as error:
        raise ConfigurationError(
            f"cannot read the signing key {file}: {error.strerror or error}"
        ) from error
    try:
        key = load_pem_private_key(pem, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        # The library's own words might repeat a part of the file.
        raise ConfigurationError(
            f"the signing key {file} is not an unencrypted PEM private key (PKCS #8)"
        ) from error
    if not isinstance(key, Ed25519PrivateKey):
        raise ConfigurationError(f"the signing key {file} is of another kind than Ed25519")
    if mode & 0o007:
        _log.warning("everyone on this machine may read the signing key %s: chmod o= it", file)
    return Signer(key)


def _make(file: Path) -> None:
    """Write a new key, whole or not at all; of two processes at once, one key stays."""
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    pem = Ed25519PrivateKey.generate().private_bytes(
        Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()
    )
    partial = file.with_suffix(f".{secrets.token_hex(8)}.partial")
    try:
        descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(pem)
            stream.flush()
            os.fsync(stream.fileno())
        try:
            os.link(partial, file)  # unlike a rename it never replaces the other's key
        except FileExistsError:
            return
    finally:
        partial.unlink(missing_ok=True)
