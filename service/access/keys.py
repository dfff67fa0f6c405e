"""API keys: the file of their digests, and whose a given key is.

A key is 256 random bits. No dictionary holds it, so there is nothing that a slow password hash
would slow down: one SHA-256 is as hard to turn back as the key is to guess, and costs microseconds.
"""

import hashlib
import hmac
import re
import secrets
import tomllib
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from service.errors import ConfigurationError

PREFIX = "fcs-"  # by which scanners of leaked secrets know a key
_BYTES = 32
_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")
_LARGEST_FILE = 1024 * 1024


class ApiKey(BaseModel):
    """One key; None: without limit, without end."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    sha256: str = Field(pattern=r"^[0-9a-f]{64}$", repr=False, description="of the key, in hex")
    requests_per_minute: int | None = Field(None, ge=1)
    samples_per_minute: int | None = Field(None, ge=1)
    concurrent_requests: int | None = Field(None, ge=1)
    expires: AwareDatetime | None = None

    def expired(self, now: datetime) -> bool:
        """Whether it opens nothing any more."""
        return self.expires is not None and now >= self.expires


Keys = Mapping[str, ApiKey]


def new_key() -> str:
    """A key that nobody has."""
    return PREFIX + secrets.token_urlsafe(_BYTES)


def digest(key: str) -> str:
    """What is kept of it."""
    return hashlib.sha256(key.encode()).hexdigest()


def whose(keys: Keys, given: str, now: datetime) -> str | None:
    """The name of a key that was given; None: unknown or expired, which take the same time."""
    found, theirs = None, digest(given)
    for name, key in keys.items():
        valid = not key.expired(now)
        if hmac.compare_digest(key.sha256, theirs) & valid:
            found = name  # no early end: how long it takes tells nothing
    return found


def read_keys(file: Path) -> Keys:
    """All keys of a TOML file: a table `[keys.NAME]` for each.

    Raises:
        ConfigurationError: a file that cannot be read, or says anything else. Nothing that could be
            a key is repeated.
    """
    try:
        with file.open("rb") as stream:
            data = stream.read(_LARGEST_FILE + 1)
        if len(data) > _LARGEST_FILE:
            raise ConfigurationError(f"{file} is larger than {_LARGEST_FILE} bytes")
        fields = tomllib.loads(data.decode())
    except OSError as error:
        raise ConfigurationError(
            f"cannot read the API keys {file}: {error.strerror or error}"
        ) from error
    except ValueError as error:
        where = re.search(r"\(at .*\)$", str(error))
        raise ConfigurationError(f"{file} is not valid TOML {where[0] if where else ''}") from None
    tables = fields.get("keys")
    if set(fields) != {"keys"} or not isinstance(tables, dict):
        raise ConfigurationError(f"{file} must hold tables [keys.NAME] and nothing else")
    keys: dict[str, ApiKey] = {}
    for name, table in tables.items():
        keys[name] = _key(file, name, table)
    _refuse_twice(file, keys)
    return keys


def check_name(name: str) -> str:
    """A name as it may stand in logs and metrics.

    Raises:
        ConfigurationError: it may not.
    """
    if not _NAME.fullmatch(name):
        raise ConfigurationError(
            "a key's name has 1 to 64 letters, digits, dots, dashes or underscores"
        )
    return name


def _key(file: Path, name: str, table: object) -> ApiKey:
    try:
        check_name(name)
    except ConfigurationError as error:
        raise ConfigurationError(f"{file}: {error}") from None
    try:
        return ApiKey.model_validate(table)
    except ValidationError as error:
        first = error.errors()[0]
        field = str(first["loc"][0]) if first["loc"] else ""
        if first["type"] == "extra_forbidden":
            known = ", ".join(ApiKey.model_fields)
            reason = f"unknown field; allowed are {known}"
        elif field == "sha256" and first["type"] != "missing":
            reason = "not the SHA-256 of a key: 64 lower-case hex digits"
        else:
            reason = first["msg"]
        where = f"keys.{name}.{field}" if field else f"keys.{name}"
        raise ConfigurationError(f"{file}: {where}: {reason}") from None


def _refuse_twice(file: Path, keys: Keys) -> None:
    """A key under two names would have the budget of either."""
    names: dict[str, str] = {}
    for name, key in keys.items():
        if (other := names.setdefault(key.sha256, name)) != name:
            raise ConfigurationError(f"{file}: keys.{name} is the same key as keys.{other}")
