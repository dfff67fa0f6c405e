"""Messages of a conversation -> the numbered tokens of a prompt, with room for its pictures."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from jinja2 import TemplateError
from torch import Tensor

from service.errors import invalid, shown
from service.models.answerer.family import Family
from service.types import Message


@dataclass(frozen=True, slots=True)
class Prompt:
    """Tokens [1, L] int64, in which `pictures` pictures have their places."""

    ids: Tensor
    pictures: int

    @property
    def length(self) -> int:
        """Tokens, those of the pictures among them."""
        return int(self.ids.shape[1])


class Prompter:
    """Writes prompts as a model's own chat template does.

    Args:
        family: of the model.
        tokenizer: of the same folder.
        tokens: of one picture.
        context: most tokens of prompt and answer together.
    """

    def __init__(self, family: Family, tokenizer: Any, tokens: int, context: int) -> None:
        self._family, self._tokenizer = family, tokenizer
        self._tokens, self.context = tokens, context
        added = tokenizer.added_tokens_decoder.values()
        special = {token.content for token in added if token.special}
        self._special = sorted({*tokenizer.all_special_tokens, *special, family.placeholder})

    def write(self, messages: Sequence[Message], param: str) -> Prompt:
        """The prompt that asks for the next message.

        Args:
            messages: of a conversation; the last is the user's.
            param: names them in errors.

        Raises:
            ServiceError: invalid; a role or an order the template does not take, text that holds
                one of the model's own marks, or more tokens than its context.
        """
        for message in messages:
            for part in message.parts:
                if part is not None:
                    self.refuse_marks(part, param)
        pictures = sum(part is None for message in messages for part in message.parts)
        text = self._templated(messages, pictures, param)
        text = text.replace(self._family.placeholder, self._family.written(self._tokens))
        begun = bool(self._tokenizer.bos_token) and self._tokenizer.bos_token in text
        ids = self._tokenizer(text, return_tensors="pt", add_special_tokens=not begun)["input_ids"]
        found = int((ids == self._family.image_token).sum())
        if found != pictures * self._tokens:
            raise invalid(
                f"this model's template has no place for {pictures} pictures in these roles", param
            )
        if ids.shape[1] >= self.context:
            raise invalid(
                f"the prompt has {ids.shape[1]} tokens, {pictures * self._tokens} of them for"
                f" pictures; the model takes {self.context - 1}, its answer included",
                param,
            )
        return Prompt(ids, pictures)

    def refuse_marks(self, text: str, param: str) -> None:
        """Raise invalid for text that the model would take for its own marks."""
        if mark := next((mark for mark in self._special if mark in text), None):
            raise invalid(f"the text holds {shown(mark)}, a mark of the model's own", param)

    def _templated(self, messages: Sequence[Message], pictures: int, param: str) -> str:
        if not self._tokenizer.chat_template:
            return self._plain(messages, pictures, param)
        conversation = [{"role": m.role, "content": _content(m)} for m in messages]
        try:
            text: str = self._tokenizer.apply_chat_template(
                conversation, tokenize=False, add_generation_prompt=True
            )
        except (TemplateError, TypeError, KeyError, ValueError) as error:
            raise invalid(f"the model's template does not take these: {error}", param) from error
        return text

    def _plain(self, messages: Sequence[Message], pictures: int, param: str) -> str:
        only = messages[-1]
        texts = [part for part in only.parts if part is not None]
        text = self._family.plain_prompt(" ".join(texts), pictures)
        if text is None:
            raise invalid("this model has no chat template", param)
        if len(messages) > 1 or only.role != "user":
            raise invalid("this model takes one message, of the user", param)
        return text


def _content(message: Message) -> list[dict[str, str]]:
    return [
        {"type": "image"} if part is None else {"type": "text", "text": part}
        for part in message.parts
    ]
