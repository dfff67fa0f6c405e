"""The one decision of both doors: is the key known, is there a place, is its budget left."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime

from service.access.budgets import Budgets, Drawing
from service.access.keys import ApiKey, Keys, read_keys, whose
from service.caller import present
from service.changing import Changing
from service.config import Settings
from service.errors import Kind, ServiceError
from service.metrics import Metrics

_BEARER = "bearer"
_WAIT_S = 1.0
_opened: ContextVar[tuple[str, ApiKey] | None] = ContextVar("fcs_stream_key", default=None)
UNAUTHENTICATED = "no valid API key: send one as 'Authorization: Bearer KEY' or 'x-api-key: KEY'"


class Gate:
    """Of one core.

    Args:
        settings: `api_keys` and `max_requests`.
        metrics: counts readings of the keys, and shows the requests in work.
        clock: monotonic seconds.
        now: by which keys expire.

    Raises:
        ConfigurationError: a file of keys that cannot be used.
    """

    def __init__(
        self,
        settings: Settings,
        metrics: Metrics,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._most = settings.max_requests
        self._now = now
        self._in_work = 0
        self._budgets = Budgets(clock)
        self._keys: Changing[Keys] | None = None
        if (file := settings.api_keys) is not None:
            reloads = metrics.api_keys_reloads
            self._keys = Changing((file,), lambda: read_keys(file), reloads, clock)
        metrics.requests_running.set_function(lambda: self._in_work)

    def client_of(self, authorization: str | None, api_key: str | None) -> str | None:
        """The name of the key in a request's headers; None: no valid one, or none is asked for."""
        if self._keys is None:
            return None
        scheme, _, bearer = (authorization or "").partition(" ")
        given = bearer.strip() if scheme.lower() == _BEARER else api_key
        return None if given is None else whose(self._keys.current(), given, self._now())

    def check(self, client: str | None) -> None:
        """Whether a request of this client may ask anything.

        Raises:
            ServiceError: unauthenticated.
        """
        if self._keys is None:
            return
        key = None if client is None else self._keys.current().get(client)
        if key is None or key.expired(self._now()) or _replaced(client, key):
            raise ServiceError(Kind.UNAUTHENTICATED, UNAUTHENTICATED)

    @contextmanager
    def request(self, client: str | None) -> Iterator[None]:
        """Let one request in and hold its places, or refuse it at once.

        Raises:
            ServiceError: unauthenticated, busy or rate.
        """
        self.check(client)
        with self._place(), self.charged(client):
            yield

    @contextmanager
    def stream(self, client: str | None) -> Iterator[None]:
        """The same of a call whose requests, in tasks begun inside, are charged one by one.

        A key that is withdrawn, or replaced under its name, opens nothing more for them.

        Raises:
            ServiceError: unauthenticated, busy or rate.
        """
        self.check(client)
        with self._place():
            if (named := self._limits(client)) is None:
                yield
                return
            opening = _opened.set(named)
            try:
                with self._budgets.stream(*named):
                    yield
            finally:
                _opened.reset(opening)

    @contextmanager
    def charged(self, client: str | None) -> Iterator[None]:
        """Charge a request to its key alone, if that is valid still: a stream may outlive it.

        Raises:
            ServiceError: unauthenticated or rate.
        """
        self.check(client)
        if (named := self._limits(client)) is None:
            yield
            return
        with self._budgets.request(*named):
            yield

    @contextmanager
    def drawing(self, count: int) -> Iterator[Drawing]:
        """Charge samples to the key of the caller that is present.

        Raises:
            ServiceError: rate, or invalid where they can never fit.
        """
        if (named := self._limits(_client())) is None:
            yield Drawing()
            return
        with self._budgets.samples(*named, count) as drawing:
            yield drawing

    def check_samples(self, count: int) -> None:
        """Whether so many could be charged to the caller that is present.

        Raises:
            ServiceError: as `drawing`.
        """
        if (named := self._limits(_client())) is not None:
            self._budgets.check_samples(*named, count)

    @contextmanager
    def _place(self) -> Iterator[None]:
        if self._in_work >= self._most:
            raise ServiceError(
                Kind.BUSY,
                f"{self._in_work} requests are in work (limit: {self._most})",
                retry_after_s=_WAIT_S,
            )
        self._in_work += 1
        try:
            yield
        finally:
            self._in_work -= 1

    def _limits(self, client: str | None) -> tuple[str, ApiKey] | None:
        """The name and the key; None where nothing limits: no keys, or withdrawn meanwhile."""
        if client is None or self._keys is None:
            return None
        key = self._keys.current().get(client)
        return None if key is None else (client, key)


def _replaced(client: str | None, key: ApiKey) -> bool:
    """Another key has the name of that with which the present stream was opened."""
    opened = _opened.get()
    return opened is not None and opened[0] == client and opened[1].sha256 != key.sha256


def _client() -> str | None:
    caller = present()
    return None if caller is None else caller.client
