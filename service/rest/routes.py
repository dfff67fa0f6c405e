"""The routes: parse, call the core, encode. No logic of their own."""

import asyncio
import base64
from collections.abc import Coroutine
from dataclasses import asdict
from typing import Any, TypeVar

import numpy as np
import orjson
from fastapi import APIRouter, Request, Response
from fastapi.responses import RedirectResponse

from service.core import Core
from service.errors import Kind, ServiceError
from service.forms import certificate_form
from service.rest.body import BodyReader
from service.rest.errors import CLIENT_CLOSED
from service.rest.labels import ClassifyBody, ClassifyResponse
from service.rest.schemas import (
    EmbedBody,
    EmbedResponse,
    ErrorResponse,
    InfoResponse,
    PictureBody,
)
from service.types import ClassifyResult, EmbedResult

T = TypeVar("T")
_CASES = {
    413: "body or picture over the limit",
    415: "neither JSON nor multipart",
    422: "malformed request or picture",
    429: "queue full; see Retry-After",
    503: "not ready, draining, or device lost",
    504: "timeout_ms passed",
}
_ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorResponse, "description": text} for status, text in _CASES.items()
}
_FORM = {
    "type": "object",
    "description": "files as `inputs`; other fields as in the JSON body",
    "required": ["inputs"],
    "properties": {"inputs": {"type": "array", "items": {"type": "string", "format": "binary"}}},
    "additionalProperties": {"type": "string"},
}


def _inlined(part: Any, definitions: dict[str, Any]) -> Any:
    """A schema with its own `$defs` in place: a reference would look for them in the document."""
    if isinstance(part, list):
        return [_inlined(item, definitions) for item in part]
    if not isinstance(part, dict):
        return part
    if "$ref" in part:
        name = part["$ref"].rpartition("/")[2]
        rest = {key: value for key, value in part.items() if key != "$ref"}
        return _inlined({**definitions[name], **rest}, definitions)
    return {key: _inlined(value, definitions) for key, value in part.items()}


def _documented(kind: type[PictureBody]) -> dict[str, Any]:
    """A body for OpenAPI, which cannot see it: the routes read their requests themselves."""
    schema = kind.model_json_schema()
    content = {
        "application/json": {"schema": _inlined(schema, schema.pop("$defs", {}))},
        "multipart/form-data": {"schema": _FORM},
    }
    return {"requestBody": {"required": True, "content": content}}


def router(core: Core) -> APIRouter:
    """All routes over one core."""
    routes = APIRouter()
    bodies = BodyReader(core.settings)

    @routes.post(
        "/embed",
        response_model=None,
        responses={200: {"model": EmbedResponse}, **_ERRORS},
        openapi_extra=_documented(EmbedBody),
        summary="Robust embeddings with certificates",
    )
    async def embed(request: Request) -> Response:
        body, images = await bodies.read(request, EmbedBody)
        result = await _unless_client_leaves(request, core.embed(body.request(images)))
        if result is None:
            return Response(status_code=CLIENT_CLOSED)
        content = await asyncio.to_thread(_encode, result, body.encoding_format)
        return Response(content, media_type="application/json")

    @routes.post(
        "/classify",
        response_model=None,
        responses={200: {"model": ClassifyResponse}, **_ERRORS},
        openapi_extra=_documented(ClassifyBody),
        summary="Labels and nearest neighbours with certified radii",
    )
    async def classify(request: Request) -> Response:
        body, images = await bodies.read(request, ClassifyBody)
        wanted = await asyncio.to_thread(body.classification, images)
        del body  # thousands of references hold a hundred megabytes in this form
        result = await _unless_client_leaves(request, core.classify(wanted))
        if result is None:
            return Response(status_code=CLIENT_CLOSED)
        return Response(_encode_labels(result), media_type="application/json")

    @routes.get("/info", response_model=InfoResponse, responses={503: _ERRORS[503]})
    async def info() -> Response:
        """Models, noise levels, limits and defaults."""
        return Response(orjson.dumps(asdict(core.info())), media_type="application/json")

    @routes.head("/health", include_in_schema=False)
    @routes.head("/health/ready", include_in_schema=False)
    @routes.get("/health", responses={503: _ERRORS[503]})
    @routes.get("/health/ready", responses={503: _ERRORS[503]})
    async def ready() -> dict[str, str]:
        """200 when new work is accepted, else 503 with the reason."""
        health = core.health()
        if not health.ready:
            raise ServiceError(Kind.UNAVAILABLE, health.reason)
        return {"status": health.reason}

    @routes.head("/health/live", include_in_schema=False)
    @routes.get("/health/live", responses={503: _ERRORS[503]})
    async def live() -> dict[str, str]:
        """200 while the process can recover by itself; 503 when only a restart helps."""
        health = core.health()
        if not health.alive:
            raise ServiceError(Kind.UNAVAILABLE, health.reason)
        return {"status": "alive"}

    @routes.head("/metrics", include_in_schema=False)
    @routes.get("/metrics")
    async def metrics() -> Response:
        """Prometheus text format."""
        return Response(core.metrics.render(), media_type="text/plain; version=0.0.4")

    @routes.get("/", include_in_schema=False)
    async def home() -> RedirectResponse:
        return RedirectResponse("/docs")

    return routes


async def _unless_client_leaves(request: Request, work: Coroutine[Any, Any, T]) -> T | None:
    """Run `work`, or cancel it and return None when the client disconnects."""
    working = asyncio.create_task(work)
    leaving = asyncio.create_task(_disconnected(request))
    try:
        await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            return working.result()
        return None
    finally:
        leaving.cancel()
        working.cancel()
        await asyncio.gather(working, leaving, return_exceptions=True)


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _encode(result: EmbedResult, encoding_format: str) -> bytes:
    data = []
    for index, item in enumerate(result.data):
        certificate = None
        if item.certificate is not None:
            certificate = certificate_form(item.certificate)
        embedding: Any = np.frombuffer(item.values, "<f4")
        if encoding_format == "base64":
            embedding = base64.b64encode(item.values).decode()
        receipt = None if item.receipt is None else orjson.Fragment(item.receipt)
        data.append(
            {
                "index": index,
                "embedding": embedding,
                "certificate": certificate,
                "receipt": receipt,
            }
        )
    body = {
        "model": result.model,
        "revision": result.revision,
        "data": data,
        "timing": asdict(result.timing),
    }
    return orjson.dumps(body, option=orjson.OPT_SERIALIZE_NUMPY)


def _encode_labels(result: ClassifyResult) -> bytes:
    body = asdict(result)
    for index, (item, found) in enumerate(zip(body["data"], result.data, strict=True)):
        item |= {"index": index, "certificate": certificate_form(found.certificate)}
    return orjson.dumps(body)
