"""The routes: parse, call the core, encode. No logic of their own."""

import asyncio
from dataclasses import asdict
from typing import Any

import orjson
from fastapi import APIRouter, Request, Response
from fastapi.responses import RedirectResponse

from service.core import Core
from service.rest import compatible, encode, operations
from service.rest.answers import ANSWER_EVENTS, AnswerBody, AnswerResponse, SpokenResponse, encoded
from service.rest.body import BodyReader
from service.rest.documented import ERRORS, documented_body, documented_events
from service.rest.errors import CLIENT_CLOSED
from service.rest.labels import ClassifyBody, ClassifyResponse
from service.rest.leaving import unless_client_leaves
from service.rest.schemas import EmbedBody, EmbedResponse, InfoResponse
from service.rest.stream import EVENTS, EventStream


def router(core: Core) -> APIRouter:
    """All routes over one core."""
    routes = APIRouter()
    bodies = BodyReader(core.settings)

    @routes.post(
        "/embed",
        response_model=None,
        responses={200: {"model": EmbedResponse}, **ERRORS},
        openapi_extra=documented_body(EmbedBody),
        summary="Robust embeddings with certificates",
    )
    async def embed(request: Request) -> Response:
        body, images = await bodies.read(request, EmbedBody)
        result = await unless_client_leaves(request.receive, core.embed(body.request(images)))
        if result is None:
            return Response(status_code=CLIENT_CLOSED)
        content = await asyncio.to_thread(encode.embeddings, result, body.encoding_format)
        return Response(content, media_type="application/json")

    @routes.post(
        "/embed/stream",
        status_code=200,
        response_class=Response,  # its failures are JSON
        response_model=None,
        responses={200: documented_events(EVENTS), **ERRORS},
        openapi_extra=documented_body(EmbedBody),
        summary="The same as server-sent events: bounds so far, then the response",
    )
    async def embed_stream(request: Request) -> Response:
        """Takes what `POST /embed` takes.

        `checkpoint` events tell the bounds certified so far (with a target), `progress` events the
        samples drawn (without one). The last event is `result`, the response of `POST /embed`, or
        `error`, the body that the same failure has elsewhere. What is refused before the work
        begins has its own status.
        """
        body, images = await bodies.read(request, EmbedBody)
        return EventStream(core, body.request(images), body.encoding_format)

    @routes.post(
        "/classify",
        response_model=None,
        responses={200: {"model": ClassifyResponse}, **ERRORS},
        openapi_extra=documented_body(ClassifyBody),
        summary="Labels and nearest neighbours with certified radii",
    )
    async def classify(request: Request) -> Response:
        body, images = await bodies.read(request, ClassifyBody)
        wanted = await asyncio.to_thread(body.classification, images)
        del body  # thousands of references hold a hundred megabytes in this form
        result = await unless_client_leaves(request.receive, core.classify(wanted))
        if result is None:
            return Response(status_code=CLIENT_CLOSED)
        return Response(encode.labels(result), media_type="application/json")

    answered: dict[str, Any] = {"model": AnswerResponse, **documented_events(ANSWER_EVENTS)}

    @routes.post(
        "/answer",
        response_model=None,
        responses={200: answered, **ERRORS},
        openapi_extra=documented_body(AnswerBody),
        summary="What a language model says about pictures, its features certified",
    )
    async def answer(request: Request) -> Response:
        """With `stream`, `text` events as it speaks, then `result`, the whole, or `error`."""
        body, images = await bodies.read(request, AnswerBody)
        wanted = body.answer(images)
        if body.stream:
            return SpokenResponse(core, wanted)
        result = await unless_client_leaves(request.receive, core.answer(wanted))
        if result is None:
            return Response(status_code=CLIENT_CLOSED)
        return Response(encoded(result), media_type="application/json")

    routes.include_router(compatible.router(core, bodies))

    @routes.get("/info", response_model=InfoResponse, responses={503: ERRORS[503]})
    async def info() -> Response:
        """Models, noise levels, limits and defaults."""
        return Response(orjson.dumps(asdict(core.info())), media_type="application/json")

    routes.include_router(operations.router(core))

    @routes.get("/", include_in_schema=False)
    async def home() -> RedirectResponse:
        return RedirectResponse("/docs")

    return routes
