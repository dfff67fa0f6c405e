"""Pictures from allowed hosts: looked up once, checked, and read from that very address.

One GET over one connection. There is no proxy, cookie, credential, redirect or compression here to
be abused: h11 knows none of them, and nothing is taken from the environment but the authorities
that TLS trusts (`SSL_CERT_FILE`, OpenSSL's own variable).
"""

import asyncio
import socket
import ssl
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import h11

from service.config import Settings
from service.errors import Kind, ServiceError, invalid, shown, too_large
from service.locations import Location, Origin, is_public, origin

_AT_ONCE = 8
_ADDRESSES = 4  # of one host that are tried, each for its share of the time
_CHUNK = 64 * 1024
_HEADERS = (
    ("Accept", "image/*"),
    ("Accept-Encoding", "identity"),
    ("Connection", "close"),
    ("User-Agent", "fcs-serve"),
)
Resolve = Callable[[str, int], Awaitable[Sequence[str]]]
# Told of each chunk, it may refuse to take more.
OnBytes = Callable[[int], None]


class Fetcher:
    """Fetches pictures within the limits of one service.

    Args:
        settings: `fetch_hosts`, `fetch_timeout_ms` and `max_body_bytes`.
        resolve: host and port -> its IP addresses.
        acceptable: whether an address may be connected to.
    """

    def __init__(
        self,
        settings: Settings,
        resolve: Resolve | None = None,
        acceptable: Callable[[str], bool] = is_public,
    ) -> None:
        self.allowed = frozenset(origin(entry) for entry in settings.fetch_hosts)
        self._timeout_s = settings.fetch_timeout_ms / 1000
        self._most = settings.max_body_bytes
        self._acceptable = acceptable
        self._slots = asyncio.Semaphore(_AT_ONCE)
        # Lookups cannot be interrupted: those that are late must not hold threads of others.
        self._lookups = ThreadPoolExecutor(_AT_ONCE, "fcs-lookup")
        self._resolve = resolve or self._look_up
        self._tls: ssl.SSLContext | None = None

    async def fetch(self, locations: Sequence[Location], on_bytes: OnBytes) -> list[bytes]:
        """All pictures of a request, in order, or none.

        Together they may be as large as a body, and take `fetch_timeout_ms`.

        Args:
            locations: of hosts that are allowed.
            on_bytes: told the size of each piece as it arrives; what it raises ends the fetch.

        Raises:
            ServiceError: deadline; too_large; invalid, for a host that has no public address or
                does not answer with a picture. It names the field.
        """
        total = 0

        def count(size: int, param: str) -> None:
            nonlocal total
            total += size
            if total > self._most:
                raise self._too_large(param)
            on_bytes(size)

        tasks = [asyncio.ensure_future(self._one(place, count)) for place in locations]
        try:
            async with asyncio.timeout(self._timeout_s):
                return await asyncio.gather(*tasks)
        except TimeoutError as error:
            paired = zip(locations, tasks, strict=True)
            # None where the last one came in the very turn in which the time was over.
            late = next((place for place, task in paired if task.cancelled()), locations[-1])
            raise ServiceError(
                Kind.DEADLINE,
                f"the picture could not be fetched from {late.origin} within"
                f" {self._timeout_s:g} seconds",
                late.param,
            ) from error
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _one(self, place: Location, count: Callable[[int, str], None]) -> bytes:
        async with self._slots:
            addresses = await self._addresses(place)
            try:
                reader, writer = await self._connect(place.origin, addresses)
                try:
                    return await self._get(place, reader, writer, count)
                finally:
                    writer.transport.abort()
            except (OSError, EOFError, h11.ProtocolError) as error:
                raise _failed(place, _reason(error)) from error

    async def _addresses(self, place: Location) -> list[str]:
        """The addresses of the host, every one of them acceptable."""
        try:
            found = await self._resolve(place.origin.host, place.origin.port)
        except OSError as error:
            raise _failed(place, "the name is not known") from error
        if not found or not all(self._acceptable(address) for address in found):
            raise _failed(place, "the name does not lead to public addresses alone")
        return list(dict.fromkeys(found))[:_ADDRESSES]

    async def _look_up(self, host: str, port: int) -> list[str]:
        """As an absolute name: no search list may lead it elsewhere."""
        found = await asyncio.get_running_loop().run_in_executor(
            self._lookups,
            lambda: socket.getaddrinfo(f"{host}.".encode(), port, type=socket.SOCK_STREAM),
        )
        return [str(address[0]) for *_, address in found]

    async def _connect(
        self, to: Origin, addresses: list[str]
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """To a checked address, never to the name; the certificate must be the name's."""
        tls = self._context() if to.scheme == "https" else None
        name = to.host if tls else None
        share = self._timeout_s / len(addresses)
        for address in addresses[:-1]:
            try:
                async with asyncio.timeout(share):
                    return await asyncio.open_connection(
                        address, to.port, ssl=tls, server_hostname=name
                    )
            except ssl.SSLError:
                raise
            except OSError:  # a timeout among them
                continue
        return await asyncio.open_connection(addresses[-1], to.port, ssl=tls, server_hostname=name)

    def _context(self) -> ssl.SSLContext:
        if self._tls is None:
            self._tls = ssl.create_default_context()
        return self._tls

    async def _get(
        self,
        place: Location,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        count: Callable[[int, str], None],
    ) -> bytes:
        http = h11.Connection(h11.CLIENT)
        headers = [("Host", place.origin.authority), *_HEADERS]
        asked = http.send(h11.Request(method="GET", target=place.target, headers=headers))
        writer.write((asked or b"") + (http.send(h11.EndOfMessage()) or b""))
        await writer.drain()
        body = bytearray()
        while True:
            event = http.next_event()
            if event is h11.NEED_DATA:
                http.receive_data(await reader.read(_CHUNK))
            elif isinstance(event, h11.Response):
                self._check(place, event)
            elif isinstance(event, h11.Data):
                count(len(event.data), place.param)
                body += event.data
            elif isinstance(event, h11.EndOfMessage):
                return bytes(body)
            elif not isinstance(event, h11.InformationalResponse):
                raise EOFError("it closed the connection")

    def _check(self, place: Location, response: h11.Response) -> None:
        """Of the answer's head, before anything of its body is read."""
        if 300 <= response.status_code < 400:
            raise _failed(
                place,
                f"it answered {response.status_code}, and redirects are not followed:"
                " send the picture's own URL",
            )
        if response.status_code != 200:
            raise _failed(place, f"it answered {response.status_code}")
        for name, value in response.headers:
            if name == b"content-encoding" and value.lower() != b"identity":
                raise _failed(
                    place, f"it is compressed, as {shown(value.decode('latin-1'))}, unasked"
                )
            if name == b"content-length" and int(value) > self._most:
                raise self._too_large(place.param)

    def _too_large(self, param: str) -> ServiceError:
        return too_large(
            f"the pictures that were fetched are over the limit of {self._most} bytes together",
            param,
        )


def _failed(place: Location, reason: str) -> ServiceError:
    """The host alone is named: path and query may hold what is secret."""
    return invalid(f"the picture could not be fetched from {place.origin}: {reason}", place.param)


def _reason(error: Exception) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not valid: {error.verify_message}"
    if isinstance(error, h11.ProtocolError):
        return "it does not speak HTTP/1.1"
    if isinstance(error, OSError):
        return "no connection"
    return str(error)
