"""Tokens of several answers at once: each joins when it is ready and leaves when it is done.

Prompts are read one at a time. The rows of a step have caches of different lengths: shorter ones
are padded on the left, masked, and keep their own positions, so a row says what it would say alone,
up to the rounding of another batch size.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from transformers import DynamicCache

from service.models.answerer.family import Family
from service.models.answerer.prompt import Prompt
from service.types import FinishReason, Generation

_MOST_ROWS = 16  # of a pass over several answers to several prompts, for the sake of memory


@dataclass(slots=True, eq=False)
class Row:
    """An answer in the making.

    Attributes:
        ids: tokens so far, none of them an end.
        finish: why it ended; None while it goes on.
    """

    generation: Generation
    position: int
    draw: torch.Generator
    ids: list[int] = field(default_factory=list)
    finish: FinishReason | None = None


class Decoder:
    """Answers of one model; for one thread.

    Args:
        family: of the model.
        ends: tokens that end an answer.
    """

    def __init__(self, family: Family, ends: Sequence[int]) -> None:
        self._family, self._model = family, family.model
        self._ends = frozenset(ends)
        self._rows: list[Row] = []
        self._cache = DynamicCache()
        self._mask = torch.ones(0, 0, dtype=torch.long)
        self.device = self._model.device

    @property
    def rows(self) -> tuple[Row, ...]:
        """Those that go on."""
        return tuple(self._rows)

    @torch.inference_mode()
    def begin(self, prompt: Prompt, maps: Sequence[Tensor], generation: Generation) -> Row:
        """Read a prompt and its pictures; the answer has its first token, or has ended.

        Args:
            prompt: with as many pictures as there are maps.
            maps: of the pictures, [T, D] each, in order.
            generation: how to choose tokens, and how many.
        """
        ids = prompt.ids.to(self.device)
        cache = DynamicCache()
        logits = self._read(ids, maps, cache)[0]
        draw = torch.Generator("cpu").manual_seed(generation.seed)
        row = Row(generation, self._family.first_position + prompt.length, draw)
        self._take(row, logits)
        if row.finish is None:
            self._join(row, cache)
        return row

    @torch.inference_mode()
    def step(self) -> tuple[Row, ...]:
        """One more token for every row; the rows that had one, ended or not."""
        rows = tuple(self._rows)
        if not rows:
            return ()
        last = torch.tensor([[row.ids[-1]] for row in rows], device=self.device)
        positions = torch.tensor([[row.position] for row in rows], device=self.device)
        self._mask = functional.pad(self._mask, (0, 1), value=1)
        told = self._model(
            input_ids=last,
            attention_mask=self._mask,
            position_ids=positions,
            past_key_values=self._cache,
            use_cache=True,
        )
        for row, logits in zip(rows, told.logits[:, -1], strict=True):
            row.position += 1
            self._take(row, logits)
        self._keep([row for row in rows if row.finish is None])
        return rows

    def leave(self, row: Row) -> None:
        """Nobody waits for this answer any more."""
        if row in self._rows:
            self._keep([other for other in self._rows if other is not row])

    @torch.inference_mode()
    def likelihoods(
        self, prompt: Prompt, shown: Sequence[Sequence[Tensor]], answers: Sequence[Sequence[int]]
    ) -> Tensor:
        """How likely each answer is after a prompt, once for everything that is shown with it.

        Args:
            prompt: the same for all.
            shown: B times the maps of the prompt's pictures, [T, D] each, in order.
            answers: tokens of each, at least one.

        Returns:
            Mean logarithm of the likelihood of each answer's tokens, float32 [B, answers].
        """
        rows = len(shown)
        cache = DynamicCache()
        maps = [one for maps in shown for one in maps]
        ids = prompt.ids.to(self.device).expand(rows, -1)
        first = self._read(ids, maps, cache).float().log_softmax(1)
        begun = torch.stack([first[:, answer[0]] for answer in answers], 1)
        step = max(1, _MOST_ROWS // rows)
        parts = [answers[at : at + step] for at in range(0, len(answers), step)]
        later = torch.cat([self._continued(prompt, cache, part) for part in parts], 1)
        lengths = torch.tensor([len(answer) for answer in answers], device=self.device)
        return ((begun + later) / lengths).cpu()

    def _continued(self, prompt: Prompt, cache: Any, answers: Sequence[Sequence[int]]) -> Tensor:
        """Logarithm of the likelihood of all tokens of each answer but its first, [B, answers].

        All of them in one pass; shorter ones are filled up behind, where nothing that counts looks.
        """
        rows, count = len(_layers(cache)[0][0]), len(answers)
        length = max(len(answer) for answer in answers)
        if length == 1:
            return torch.zeros(rows, count, device=self.device)
        filled = torch.zeros(count, length, dtype=torch.long)
        counts = torch.zeros(count, length, dtype=torch.bool)
        for i, answer in enumerate(answers):
            filled[i, : len(answer)] = torch.tensor(list(answer))
            counts[i, : len(answer)] = True
        filled, counts = (one.to(self.device).repeat(rows, 1) for one in (filled, counts))
        copies = DynamicCache(
            [
                (keys.repeat_interleave(count, 0), values.repeat_interleave(count, 0))
                for keys, values in _layers(cache)
            ]
        )
        begins = self._family.first_position + prompt.length
        positions = begins + torch.arange(length - 1, device=self.device)
        told = self._model(
            input_ids=filled[:, :-1],
            position_ids=positions.expand(rows * count, -1),
            past_key_values=copies,
            use_cache=True,
        )
        logs = told.logits.float().log_softmax(2).gather(2, filled[:, 1:, None])[:, :, 0]
        total: Tensor = (logs * counts[:, 1:]).sum(1)
        return total.view(rows, count)

    def _read(self, ids: Tensor, maps: Sequence[Tensor], cache: Any) -> Tensor:
        """Logits [B, V] after prompts [B, L], which the cache then holds."""
        seen: dict[str, Any] = {}
        if len(maps):
            seen["mm_encoder_outputs"] = self._family.shown([m.to(self.device) for m in maps])
        positions = self._family.first_position + torch.arange(ids.shape[1], device=self.device)
        told = self._model(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            position_ids=positions.expand(len(ids), -1),
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
            **seen,
            **self._family.prefill_options(ids),
        )
        logits: Tensor = told.logits[:, -1]
        return logits

    def _take(self, row: Row, logits: Tensor) -> None:
        """Choose a row's next token, and see whether it ends there."""
        token = choose(logits.float().cpu(), row.generation, row.draw)
        if token in self._ends:
            row.finish = "stop"
            return
        row.ids.append(token)
        if len(row.ids) >= row.generation.max_tokens:
            row.finish = "length"

    def _join(self, row: Row, cache: Any) -> None:
        new = torch.ones(1, cache.get_seq_length(), dtype=torch.long, device=self.device)
        if not self._rows:
            self._rows, self._cache, self._mask = [row], cache, new
            return
        length = max(self._mask.shape[1], new.shape[1])
        self._mask = torch.cat([_padded(self._mask, length, 1), _padded(new, length, 1)])
        joined = zip(_layers(self._cache), _layers(cache), strict=True)
        self._cache = DynamicCache(
            [
                tuple(
                    torch.cat([_padded(ours, length, 2), _padded(theirs, length, 2)])
                    for ours, theirs in zip(layer, other, strict=True)
                )
                for layer, other in joined
            ]
        )
        self._rows.append(row)

    def _keep(self, rows: list[Row]) -> None:
        """Only these, without the padding that no row needs any more."""
        if len(rows) == len(self._rows):
            return
        kept = [i for i, row in enumerate(self._rows) if row in rows]
        self._rows = rows
        if not rows:
            self._cache = DynamicCache()
            return
        mask = self._mask[kept]
        first = int(mask.any(0).long().argmax())
        self._mask = mask[:, first:]
        self._cache = DynamicCache(
            [
                (keys[kept][:, :, first:], values[kept][:, :, first:])
                for keys, values in _layers(self._cache)
            ]
        )


def choose(logits: Tensor, generation: Generation, draw: torch.Generator) -> int:
    """A token by its logits [V]: the likeliest at temperature 0, else drawn from the nucleus.

    The nucleus (Holtzman et al. 2020) is the fewest likeliest tokens of probability `top_p`.
    """
    if generation.temperature == 0:
        return int(logits.argmax())
    chances, order = (logits / generation.temperature).softmax(0).sort(descending=True)
    kept = chances.cumsum(0) - chances < generation.top_p
    chances = chances * kept
    return int(order[torch.multinomial(chances, 1, generator=draw)])


def _layers(cache: Any) -> list[tuple[Tensor, Tensor]]:
    """Keys and values [rows, heads, length, d] of each layer."""
    return [(layer.keys, layer.values) for layer in cache.layers]


def _padded(tensor: Tensor, length: int, axis: int) -> Tensor:
    """With zeros in front along an axis."""
    missing = length - tensor.shape[axis]
    pads = [0, 0] * (tensor.ndim - 1 - axis) + [missing, 0]
    return functional.pad(tensor, pads)
