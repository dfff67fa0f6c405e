"""Prompts and messages as doors receive them -> one conversation, with a place for each picture."""

from collections.abc import Sequence

from service.errors import invalid, shown
from service.types import Message

ROLES = ("system", "user", "assistant")
MAX_MESSAGES = 200
MAX_PARTS = 200


def conversation(
    prompt: str | None, messages: Sequence[Message], pictures: int
) -> tuple[Message, ...]:
    """A conversation that ends with the user's word.

    Args:
        prompt: a question about the pictures, instead of messages.
        messages: None among the parts are places of pictures; where there are none, the pictures
            stand in front of the user's first message.
        pictures: of the request.

    Raises:
        ServiceError: invalid; both or neither, other places than pictures, an unknown role, or too
            many messages or parts.
    """
    if (prompt is None) == (not messages):
        raise invalid("give a prompt or messages, one of the two", "prompt")
    if prompt is not None:
        if not prompt.strip():
            raise invalid("the prompt says nothing", "prompt")
        return (Message("user", (*[None] * pictures, prompt)),)
    _check(messages)
    told = list(messages)
    places = sum(part is None for message in told for part in message.parts)
    if not places:
        first = next(i for i, message in enumerate(told) if message.role == "user")
        told[first] = Message("user", (*[None] * pictures, *told[first].parts))
    elif places != pictures:
        raise invalid(f"{places} image parts for {pictures} pictures", "messages")
    return tuple(told)


def _check(messages: Sequence[Message]) -> None:
    if len(messages) > MAX_MESSAGES:
        raise invalid(f"{len(messages)} messages; at most {MAX_MESSAGES} are accepted", "messages")
    for i, message in enumerate(messages):
        if message.role not in ROLES:
            raise invalid(
                f"unknown role {shown(message.role)}; allowed are {', '.join(ROLES)}",
                f"messages[{i}].role",
            )
        if not 1 <= len(message.parts) <= MAX_PARTS:
            raise invalid(
                f"{len(message.parts)} parts in one message; allowed are 1 to {MAX_PARTS}",
                f"messages[{i}]",
            )
    if messages[-1].role != "user":
        raise invalid("the last message must be the user's", "messages")
    if not any(part is None or part.strip() for part in messages[-1].parts):
        raise invalid("the last message says nothing", f"messages[{len(messages) - 1}]")
