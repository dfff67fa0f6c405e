"""Scenes with questions: what `Scenes` composes, and turns about it as one packed sequence each.

    user: <image>...   then, for each turn,   question, assistant: answer

All turns of a picture share its tokens. Each sees the picture and itself, at the positions that it
would have alone, so that a packed sequence teaches what its turns would teach one by one.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from service.errors import ConfigurationError
from service.models.answerer.converted import IMAGE_MARK
from service.pictures.meanings import Meaning
from service.training.questions import Questions, Turn, main_colour
from service.training.scenes import Scenes

_TRIES = 20
_TEXTURED = 0.0  # a cut-out filled with a photo would have lost its meaning
_SMALLEST_CROP = 0.7  # of a photograph that shows one thing
_QUESTION_END = "<|im_end|>\n<|im_start|>assistant\n"
_ANSWER_END = "<|im_end|>"
_NOTHING = -100  # a label that is not trained on


@dataclass(frozen=True, slots=True)
class Asked:
    """Scenes and their packed turns, padded to one length L.

    Attributes:
        levels: uint8 [n, 3, H, W].
        ids: int64 [n, L].
        positions: int64 [n, L].
        turns: int64 [n, L]: which turn a token belongs to; 0 the picture's, -1 padding.
        labels: int64 [n, L]: the token that should come next, or -100.
        about: what each turn asks of, [n][turns].
    """

    levels: Tensor
    ids: Tensor
    positions: Tensor
    turns: Tensor
    labels: Tensor
    about: tuple[tuple[str, ...], ...]

    def to(self, device: torch.device) -> "Asked":
        """The same there."""
        return replace(
            self,
            levels=self.levels.to(device),
            ids=self.ids.to(device),
            positions=self.positions.to(device),
            turns=self.turns.to(device),
            labels=self.labels.to(device),
        )

    def rows(self, chosen: slice) -> "Asked":
        """Some of the scenes."""
        return Asked(
            self.levels[chosen],
            self.ids[chosen],
            self.positions[chosen],
            self.turns[chosen],
            self.labels[chosen],
            self.about[chosen],
        )

    def visible(self) -> Tensor:
        """Which token may look at which, bool [n, 1, L, L]."""
        here, there = self.turns[:, :, None], self.turns[:, None, :]
        own = (here == there) | (there == 0)
        causal = torch.ones_like(own[0]).tril()
        eye = torch.eye(own.shape[1], dtype=torch.bool, device=own.device)
        return ((own & causal & (there >= 0)) | eye)[:, None]


class AskedScenes:
    """Examples for the projector.

    Args:
        scenes: compose; their photos are backgrounds.
        known: pictures to ask about, and what they show; kinds are drawn alike often.
        tokenizer: of the language model.
        tokens: of one picture.
        turns: questions of one picture.
        seed: of every choice.
    """

    def __init__(
        self,
        scenes: Scenes,
        known: Mapping[Path, Meaning],
        tokenizer: Any,
        tokens: int,
        turns: int,
        seed: int,
    ) -> None:
        self._scenes, self._known, self._turns = scenes, known, turns
        self._seed = seed
        self._questions = Questions(list(known.values()))
        self._by_kind = _sorted(known)
        self._write = _Writer(tokenizer, tokens)

    def batch(self, indices: Sequence[int]) -> Asked:
        """Those of these numbers."""
        made = [self._make(i) for i in indices]
        levels = torch.from_numpy(np.stack([levels for levels, _ in made]))
        return self._write.packed(levels, [turns for _, turns in made])

    def _make(self, i: int) -> tuple[Any, list[Turn]]:
        rng = np.random.Generator(np.random.Philox(key=self._seed, counter=[0, 0, 1, i]))
        file, picture = self._draw(rng)
        if np.asarray(picture.getchannel("A")).min() == 255:
            scene = self._scenes.crop(rng, picture.convert("RGB"), _SMALLEST_CROP)
        else:
            scene = self._scenes.composed(rng, picture, _TEXTURED)
        turns = self._questions.draw(self._known[file], main_colour(picture), self._turns, rng)
        levels = np.asarray(scene, np.uint8).transpose(2, 0, 1)
        return np.ascontiguousarray(levels[:, :, ::-1] if rng.random() < 0.5 else levels), turns

    def _draw(self, rng: np.random.Generator) -> tuple[Path, Image.Image]:
        last: ConfigurationError | None = None
        for _ in range(_TRIES):
            groups = self._by_kind[int(rng.integers(len(self._by_kind)))]
            group = groups[int(rng.integers(len(groups)))]
            file = group[int(rng.integers(len(group)))]
            try:
                return file, self._scenes.shelf.load(file, "RGBA")
            except ConfigurationError as error:
                last = error
        raise last or ConfigurationError("no pictures to ask about")


class _Writer:
    """Turns -> padded tokens."""

    def __init__(self, tokenizer: Any, tokens: int) -> None:
        self._tokenizer = tokenizer
        self._picture = self._ids("<|im_start|>user\n" + IMAGE_MARK * tokens)

    def packed(self, levels: Tensor, turns: Sequence[Sequence[Turn]]) -> Asked:
        rows = [self._row(one) for one in turns]
        length = max(len(row[0]) for row in rows)
        padding = (0, 0, -1, _NOTHING)
        columns = [
            torch.tensor([row[k] + [padding[k]] * (length - len(row[k])) for row in rows])
            for k in range(4)
        ]
        ids, positions, which, labels = columns
        about = tuple(tuple(turn.about for turn in one) for one in turns)
        return Asked(levels, ids, positions, which, labels, about)

    def _row(self, turns: Sequence[Turn]) -> tuple[list[int], list[int], list[int], list[int]]:
        begins = len(self._picture)
        ids, positions = list(self._picture), list(range(begins))
        which, labels = [0] * begins, [_NOTHING] * begins
        for number, turn in enumerate(turns, 1):
            question = self._ids(turn.question + _QUESTION_END)
            answer = self._ids(turn.answer + _ANSWER_END)
            own = question + answer
            ids += own
            positions += range(begins, begins + len(own))
            which += [number] * len(own)
            labels += [_NOTHING] * (len(question) - 1) + answer + [_NOTHING]
        return ids, positions, which, labels

    def _ids(self, text: str) -> list[int]:
        found: list[int] = self._tokenizer(text, add_special_tokens=False)["input_ids"]
        return found


def _sorted(known: Mapping[Path, Meaning]) -> list[list[list[Path]]]:
    """Files by kind, and within one by name, so that what has many forms is not drawn more often.

    A kind's pictures without names are one group for each folder.
    """
    groups: dict[str, dict[str, list[Path]]] = {}
    for file, meaning in sorted(known.items()):
        name = meaning.name or f"/{file.parent}/{file.stem.split('-')[0]}"
        groups.setdefault(meaning.kind, {}).setdefault(name, []).append(file)
    return [list(names.values()) for _, names in sorted(groups.items())]
