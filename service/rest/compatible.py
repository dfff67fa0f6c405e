"""The OpenAI-compatible routes: parse, call the core, encode."""

import asyncio
import time
from typing import Any

from fastapi import APIRouter, Request, Response

from service.core import Core
from service.errors import Kind, ServiceError, shown
from service.rest import openai
from service.rest.body import BodyReader
from service.rest.documented import ERRORS, NOT_FOUND, documented_json
from service.rest.errors import CLIENT_CLOSED
from service.rest.leaving import unless_client_leaves
from service.rest.openai import ChatBody, CompletionStream, EmbeddingsBody


def router(core: Core, bodies: BodyReader) -> APIRouter:
    """Routes under `/v1`."""
    routes = APIRouter(prefix="/v1")
    started = int(time.time())

    @routes.post(
        "/chat/completions",
        response_model=None,
        responses=ERRORS,
        openapi_extra=documented_json(ChatBody),
        summary="Answers about pictures, as OpenAI's clients ask for them",
    )
    async def completions(request: Request) -> Response:
        """The certificate comes as extra fields, in a stream with the last chunk of a choice."""
        body, images = await bodies.read_json(request, ChatBody)
        wanted = body.answer(images)
        if body.stream:
            model = core.answering_model(body.model)
            with_usage = body.stream_options is not None and body.stream_options.include_usage
            return CompletionStream(core, wanted, model, with_usage)
        result = await unless_client_leaves(request.receive, core.answer(wanted))
        if result is None:
            return Response(status_code=CLIENT_CLOSED)
        return Response(openai.completion(result), media_type="application/json")

    @routes.post(
        "/embeddings",
        response_model=None,
        responses=ERRORS,
        openapi_extra=documented_json(EmbeddingsBody),
        summary="Embeddings of pictures, as OpenAI's clients ask for them",
    )
    async def embeddings(request: Request) -> Response:
        """`input` holds pictures as base64 or data URIs; each item has its certificate."""
        body, images = await bodies.read_json(request, EmbeddingsBody)
        work = core.embed(body.embedding(images))
        result = await unless_client_leaves(request.receive, work)
        if result is None:
            return Response(status_code=CLIENT_CLOSED)
        content = await asyncio.to_thread(openai.embeddings, result, body.encoding_format)
        return Response(content, media_type="application/json")

    @routes.get("/models", responses={503: ERRORS[503]})
    async def models() -> dict[str, Any]:
        """The loaded models."""
        return openai.models(core.info(), started)

    @routes.get("/models/{name:path}", responses={404: NOT_FOUND, 503: ERRORS[503]})
    async def model(name: str) -> dict[str, Any]:
        """One loaded model."""
        listed = openai.models(core.info(), started)["data"]
        found: dict[str, Any] | None = next((one for one in listed if one["id"] == name), None)
        if found is None:
            raise ServiceError(Kind.NOT_FOUND, f"no model {shown(name)} is loaded", "model")
        return found

    return routes
