"""Questions of one right answer about pictures whose meaning is known, and how answers are marked.

Written by rule. An answer counts when it is the right one, letter case, articles and punctuation
aside. Yes/no questions come in pairs, one of each, so that always saying the same is worth one
half.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.stats import beta

from service.pictures.meanings import KINDS, Meaning

_LEVEL = 0.95  # of the intervals


@dataclass(frozen=True, slots=True)
class Question:
    """About one picture; `about` is kind, yes/no, or name."""

    picture: int
    text: str
    answer: str
    about: str


def chosen(
    known: Mapping[Path, Meaning], limit: int | None, rng: np.random.Generator
) -> dict[Path, Meaning]:
    """The kinds in turn, and of each what it is called in turn: many forms of one count little."""
    queues = []
    for kind in sorted({one.kind for one in known.values()}):
        files = sorted(file for file, one in known.items() if one.kind == kind)
        seen: dict[str, list[Path]] = {}
        for i in rng.permutation(len(files)):
            name = known[files[i]].name or files[i].stem.split("-")[0]
            seen.setdefault(name, []).append(files[i])
        firsts = [group[0] for group in seen.values()]
        queues.append(firsts + [file for group in seen.values() for file in group[1:]])
    order = [queue[i] for i in range(max(map(len, queues))) for queue in queues if i < len(queue)]
    return {file: known[file] for file in order[:limit]}


def questions(shown: Sequence[Meaning], rng: np.random.Generator) -> Iterator[Question]:
    """Its kind, yes and no about kinds, and its name where it has one, of each picture."""
    kinds = sorted({one.kind for one in shown})
    for i, one in enumerate(shown):
        yield Question(i, "What kind of thing is this?", one.kind, "kind")
        others = [kind for kind in kinds if kind != one.kind]
        other = others[int(rng.integers(len(others)))]
        yield Question(i, f"Is this {KINDS[one.kind]}?", "yes", "yes/no")
        yield Question(i, f"Is this {KINDS[other]}?", "no", "yes/no")
        if one.name:
            yield Question(i, "What is this called?", one.name, "name")


def abouts(asked: Sequence[Question]) -> list[str]:
    """What is asked about, in order."""
    return list(dict.fromkeys(question.about for question in asked))


def share(right: Sequence[bool]) -> tuple[float, float, float, int]:
    """What is right of all, the ends of its Clopper-Pearson interval, and how many there are."""
    n, k, tail = len(right), sum(right), (1 - _LEVEL) / 2
    low = 0.0 if k == 0 else float(beta.ppf(tail, k, n - k + 1))
    high = 1.0 if k == n else float(beta.ppf(1 - tail, k + 1, n - k))
    return k / n, low, high, n


def plain(text: str) -> str:
    """Without articles, letter case and punctuation."""
    words = re.sub(r"[^a-z0-9 ]", " ", text.lower()).split()
    return " ".join(word for word in words if word not in {"a", "an", "the"})
