"""Targets of the REST door, which know more of the service and take longer to load."""

from contextlib import suppress

from service.errors import ServiceError
from service.locations import origin
from service.rest.answers import AnswerBody
from service.rest.labels import ClassifyBody
from service.rest.openai import ChatBody, EmbeddingsBody
from service.rest.parsing import parse_fields, parse_json
from service.rest.schemas import EmbedBody

_ALLOWED = frozenset({origin("a.example"), origin("http://b.example:8080")})
_KINDS = (EmbedBody, ClassifyBody, AnswerBody, ChatBody, EmbeddingsBody)
_FORMS = _KINDS[:3]


def bodies(data: bytes) -> None:
    """JSON of every route: the first byte says which."""
    for_kind, rest = data[:1] or b"\0", data[1:]
    kind = _KINDS[for_kind[0] % len(_KINDS)]
    with suppress(ServiceError):
        body, sent = parse_json(rest, kind, _ALLOWED)
        _asked(body, tuple(one for one in sent if isinstance(one, bytes)))


def forms(data: bytes) -> None:
    """Fields of a form: names and values between zero bytes."""
    parts = data.decode("utf-8", "replace").split("\0")
    fields = list(zip(parts[1::2], parts[2::2], strict=False))
    kind = _FORMS[len(parts[0]) % len(_FORMS)]
    with suppress(ServiceError):
        body, sent = parse_fields([parts[0], data], fields, kind, _ALLOWED)
        _asked(body, tuple(one for one in sent if isinstance(one, bytes)))


def _asked(body: object, images: tuple[bytes, ...]) -> None:
    if isinstance(body, ClassifyBody):
        body.classification(images)
    elif isinstance(body, AnswerBody | ChatBody):
        body.answer(images)
    elif isinstance(body, EmbedBody | EmbeddingsBody):
        body.request(images)
