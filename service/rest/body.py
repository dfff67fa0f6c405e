"""Request body -> (body of its kind, pictures): JSON or multipart, within the byte limit.

Pictures that are sent as URLs are fetched, where the operator allows it (`service.fetching`).
"""

import asyncio
from collections.abc import AsyncGenerator, Callable
from functools import partial
from typing import TypeVar

from fastapi import Request
from python_multipart.multipart import parse_options_header
from starlette.datastructures import Headers, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser

from service.config import Settings
from service.errors import Kind, ServiceError, invalid, shown, too_large
from service.fetching import Fetcher
from service.locations import Location, Origin
from service.rest.parsing import B, S, Sent, parse_fields, parse_json

_MAX_PARTS = 1000
_LARGE = 1024 * 1024  # bodies from this size on are parsed one at a time
T = TypeVar("T")


class BodyReader:
    """Reads request bodies within the limits of one service: each in size and time, all in memory.

    Args:
        settings: `max_body_bytes`, `max_buffered_bytes`, `body_timeout_ms`, `max_pictures`, and
            those of fetching.
        fetcher: of pictures that are sent as URLs; None: as the settings say.
    """

    def __init__(self, settings: Settings, fetcher: Fetcher | None = None) -> None:
        self._fetcher = fetcher or Fetcher(settings)
        self._most_pictures = settings.max_pictures
        self._most = settings.max_body_bytes
        self._most_together = settings.max_buffered_bytes
        self._timeout_s = settings.body_timeout_ms / 1000
        self._buffered = 0
        self._parsing = asyncio.Lock()

    async def read(self, request: Request, kind: type[B]) -> tuple[B, tuple[bytes, ...]]:
        """Parse the body of `POST /embed` or `POST /classify`.

        Raises:
            ServiceError: media_type, too_large, busy when too much is being uploaded, deadline when
                the body, or a picture that is fetched, does not arrive in time, or invalid naming
                the field.
        """
        content_type = _content_type(request)
        if content_type == "application/json":
            data = await self._read(request)
            return await self._parsed(len(data), partial(parse_json, data, kind, self._allowed))
        if content_type == "multipart/form-data":
            data = await self._read(request)
            content = request.headers["content-type"]
            inputs, fields = await self._off_the_loop(
                len(data), lambda: asyncio.run(_split_form(content, data))
            )
            parse = partial(parse_fields, inputs, fields, kind, self._allowed)
            return await self._parsed(len(data), parse)
        raise ServiceError(
            Kind.MEDIA_TYPE,
            f"content type {shown(content_type) if content_type else 'absent'};"
            " send application/json or multipart/form-data",
        )

    async def read_json(self, request: Request, kind: type[S]) -> tuple[S, tuple[bytes, ...]]:
        """Parse a body that is JSON alone.

        Raises:
            ServiceError: as `read`.
        """
        content_type = _content_type(request)
        if content_type != "application/json":
            raise ServiceError(
                Kind.MEDIA_TYPE,
                f"content type {shown(content_type) if content_type else 'absent'};"
                " send application/json",
            )
        data = await self._read(request)
        return await self._parsed(len(data), partial(parse_json, data, kind, self._allowed))

    @property
    def _allowed(self) -> frozenset[Origin]:
        return self._fetcher.allowed

    async def _parsed(
        self, size: int, parse: Callable[[], tuple[S, tuple[Sent, ...]]]
    ) -> tuple[S, tuple[bytes, ...]]:
        """The body with its pictures, those that are elsewhere fetched."""
        body, sent = await self._off_the_loop(size, parse)
        places = [one for one in sent if isinstance(one, Location)]
        if not places:
            return body, tuple(one for one in sent if isinstance(one, bytes))
        if len(sent) > self._most_pictures:  # as admission says, but before a host is asked
            raise invalid(
                f"{len(sent)} pictures in one request; allowed are 1 to {self._most_pictures}",
                places[0].param.partition("[")[0],
            )
        held = 0

        def on_bytes(arrived: int) -> None:
            nonlocal held
            held += arrived
            self._buffered += arrived
            self._check(0)

        try:
            found = iter(await self._fetcher.fetch(places, on_bytes))
        finally:
            self._buffered -= held
        return body, tuple(one if isinstance(one, bytes) else next(found) for one in sent)

    async def _off_the_loop(self, size: int, parse: Callable[[], T]) -> T:
        """Megabytes of base64 or numbers: in a thread, and large bodies one at a time."""
        if size < _LARGE:
            return await asyncio.to_thread(parse)
        async with self._parsing:
            return await asyncio.to_thread(parse)

    async def _read(self, request: Request) -> bytes:
        """The whole body; a size over a limit ends it before it is kept."""
        declared = request.headers.get("content-length", "")
        if declared.isdigit() and int(declared) > self._most:
            raise too_large(
                f"the body has {declared[:30]} bytes; at most {self._most} are accepted"
            )
        body = bytearray()
        try:
            async with asyncio.timeout(self._timeout_s):
                async for chunk in request.stream():
                    body += chunk
                    self._buffered += len(chunk)
                    self._check(len(body))
        except TimeoutError as error:
            raise ServiceError(
                Kind.DEADLINE, f"the body did not arrive within {self._timeout_s:g} seconds"
            ) from error
        finally:
            self._buffered -= len(body)
        return bytes(body)

    def _check(self, size: int) -> None:
        if size > self._most:
            raise too_large(f"the body is over the limit of {self._most} bytes")
        if self._buffered > self._most_together:
            raise ServiceError(
                Kind.BUSY,
                f"uploads in progress hold {self._buffered} bytes, over {self._most_together}",
                retry_after_s=self._timeout_s,
            )


def _content_type(request: Request) -> str:
    """Of a body as it is.

    Raises:
        ServiceError: media_type, it is encoded.
    """
    encoding = request.headers.get("content-encoding", "identity").strip().lower()
    if encoding != "identity":
        raise ServiceError(
            Kind.MEDIA_TYPE, f"content encoding {shown(encoding)}; send the body as it is"
        )
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


async def _split_form(
    content_type: str, data: bytes
) -> tuple[list[bytes | str], list[tuple[str, str]]]:
    """The inputs, files as bytes, and all other fields, in their order; nothing goes to a disk."""

    async def replay() -> AsyncGenerator[bytes, None]:
        yield data
        yield b""

    _, options = parse_options_header(content_type)
    boundary = options.get(b"boundary", b"")
    if not boundary or not data.rstrip().endswith(b"--" + boundary + b"--"):
        raise invalid("malformed multipart body: it does not end with its closing boundary")
    # Nothing but the boundary: a charset would change how field names are read.
    headers = Headers(
        {"content-type": f'multipart/form-data; boundary="{boundary.decode("latin-1")}"'}
    )
    parser = MultiPartParser(
        headers,
        replay(),
        max_files=_MAX_PARTS,
        max_fields=_MAX_PARTS,
        max_part_size=len(data) + 1,
    )
    parser.spool_max_size = len(data) + 1
    inputs: list[bytes | str] = []
    fields: list[tuple[str, str]] = []
    try:
        form = await parser.parse()
    except MultiPartException as error:
        raise invalid(f"malformed multipart body: {error.message}") from error
    try:
        for given, value in form.multi_items():
            name = given or ""
            if isinstance(value, UploadFile):
                if name != "inputs":
                    raise invalid(
                        f"unknown file field {shown(name)}; send files as 'inputs'", name[:100]
                    )
                inputs.append(await value.read())
            elif name == "inputs":
                inputs.append(value)
            else:
                fields.append((name, value))
    finally:
        await form.close()
    return inputs, fields
