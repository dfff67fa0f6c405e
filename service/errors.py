"""The failures a client may see: a kind, a message a person can act on, and the field at fault.

Which to raise: `invalid` for a request that can never succeed as it stands; `too_large` when a
declared size is over a limit, before anything is decoded; `busy` when the same request may succeed
later; `rate` when it may, and it is the caller's own budget that is spent; `unavailable` when this
process cannot serve at all. Transports map the kind to a status once (`service/rest/errors.py`,
`service/rpc/errors.py`).
"""

from enum import Enum


class Kind(Enum):
    """Why a request was refused or failed."""

    INVALID = "invalid_request"
    MEDIA_TYPE = "unsupported_media_type"
    TOO_LARGE = "too_large"
    NOT_FOUND = "not_found"
    METHOD = "method_not_allowed"
    UNAUTHENTICATED = "unauthenticated"
    RATE = "rate_limited"
    BUSY = "overloaded"
    DEADLINE = "deadline_exceeded"
    UNAVAILABLE = "unavailable"
    INTERNAL = "internal_error"


class ServiceError(Exception):
    """A failure to be told to the client.

    Args:
        kind: decides the status code.
        message: one sentence: what was wrong and what is allowed.
        param: the request field at fault, e.g. `radii[1]`; None where no single field is.
        retry_after_s: for `Kind.BUSY`, the estimated seconds until there is room again; for
            `Kind.RATE`, those until the budget allows it.
    """

    def __init__(
        self, kind: Kind, message: str, param: str | None = None, retry_after_s: float | None = None
    ) -> None:
        super().__init__(message)
        self.kind = kind
        self.message = message
        self.param = param
        self.retry_after_s = retry_after_s


def shown(value: str) -> str:
    """A client's own text as an error may repeat it: quoted, and never long."""
    return repr(value if len(value) <= 100 else value[:100] + "...")


def invalid(message: str, param: str | None = None) -> ServiceError:
    """A request that can never succeed as it stands."""
    return ServiceError(Kind.INVALID, message, param)


def too_large(message: str, param: str | None = None) -> ServiceError:
    """A body or picture whose declared size is over the limit."""
    return ServiceError(Kind.TOO_LARGE, message, param)


def unavailable(message: str) -> ServiceError:
    """This process cannot serve the request: not ready yet, draining, or its device is lost."""
    return ServiceError(Kind.UNAVAILABLE, message)


class ConfigurationError(Exception):
    """A setting or a model package that cannot be used; ends the start with one clear line."""
