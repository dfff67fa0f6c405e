"""What OpenAPI cannot see: the routes read their requests and write their streams themselves."""

from typing import Any

from pydantic import BaseModel

from service.rest.schemas import ErrorResponse, PictureBody, SamplingBody

_CASES = {
    401: "no valid API key, where keys are asked for",
    413: "body or picture over the limit",
    415: "neither JSON nor multipart",
    422: "malformed request or picture",
    429: "queue full, or a budget of the key spent; see Retry-After",
    503: "not ready, draining, or device lost",
    504: "timeout_ms passed",
}
ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorResponse, "description": text} for status, text in _CASES.items()
}
NOT_FOUND: dict[str, Any] = {"model": ErrorResponse, "description": "no such model is loaded"}
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
    # A discriminator maps to references that are no more; its branches tell themselves apart.
    told = {
        key: _inlined(value, definitions) for key, value in part.items() if key != "discriminator"
    }
    # Places all of one kind are a list of it, which every reader of OpenAPI understands.
    match told.get("prefixItems"):
        case [first, *others] if all(one == first for one in others):
            told["items"] = first
            del told["prefixItems"]
    return told


def documented_body(kind: type[PictureBody]) -> dict[str, Any]:
    """A body for OpenAPI, which cannot see it: the routes read their requests themselves."""
    told = documented_json(kind)
    told["requestBody"]["content"]["multipart/form-data"] = {"schema": _FORM}
    return told


def documented_json(kind: type[SamplingBody]) -> dict[str, Any]:
    """The same of a body that is JSON alone."""
    schema = kind.model_json_schema()
    content = {"application/json": {"schema": _inlined(schema, schema.pop("$defs", {}))}}
    return {"requestBody": {"required": True, "content": content}}


def documented_events(kinds: dict[str, type[BaseModel]]) -> dict[str, Any]:
    """A stream of server-sent events: each name with the model of its data."""

    def event(name: str, kind: type[BaseModel]) -> dict[str, Any]:
        schema = kind.model_json_schema()
        data = _inlined(schema, schema.pop("$defs", {}))
        return {
            "type": "object",
            "required": ["event", "data"],
            "properties": {
                "event": {"const": name},
                "data": {
                    "type": "string",
                    "contentMediaType": "application/json",
                    "contentSchema": data,
                },
            },
        }

    events = [event(name, kind) for name, kind in kinds.items()]
    return {"content": {"text/event-stream": {"itemSchema": {"oneOf": events}}}}
