"""Questions about a picture and their answers, written by rule from what it shows.

A turn is drawn from the picture's meaning and colour and from the other meanings of its set: kinds
and names to choose from, and the wrong ones that a "no" needs. Half of all answers to yes or no are
yes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from service.pictures.meanings import KINDS, Meaning

_COLOURS = 0.45  # of the opaque pixels, so that one colour is the main one


@dataclass(frozen=True, slots=True)
class Turn:
    """A question and its answer, and what kind of question it is."""

    question: str
    answer: str
    about: str


_KIND = ("What kind of thing is this?", "What is shown here?", "Which kind of thing do you see?")
_NAME = ("What is this called?", "What is the name of this?", "Name this.")
_COLOUR = ("What is its main colour?", "Which colour is it mostly?")


class Questions:
    """Draws turns.

    Args:
        known: meanings of all pictures that are asked about.
    """

    def __init__(self, known: Sequence[Meaning]) -> None:
        self._kinds = sorted({one.kind for one in known})
        self._names = {
            kind: sorted({one.name for one in known if one.kind == kind and one.name})
            for kind in self._kinds
        }

    def draw(
        self, meaning: Meaning, colour: str | None, count: int, rng: np.random.Generator
    ) -> list[Turn]:
        """So many different turns, or fewer where a picture tells less.

        Args:
            meaning: of the picture.
            colour: its main one, where it has one.
            count: turns.
            rng: of every choice.
        """
        ways = [self._kind, self._is_its_kind, self._is_other_kind, self._which_kind]
        if meaning.name and len(self._names[meaning.kind]) > 1:
            ways += [self._name, self._is_name]
        turns = [ways[i](meaning, rng) for i in rng.permutation(len(ways))]
        if colour is not None:
            turns.insert(int(rng.integers(len(turns) + 1)), _coloured(colour, rng))
        return turns[:count]

    def _kind(self, meaning: Meaning, rng: np.random.Generator) -> Turn:
        return Turn(_any(_KIND, rng), meaning.kind, "kind")

    def _is_its_kind(self, meaning: Meaning, rng: np.random.Generator) -> Turn:
        return Turn(f"Is this {KINDS[meaning.kind]}?", "yes", "is kind")

    def _is_other_kind(self, meaning: Meaning, rng: np.random.Generator) -> Turn:
        return Turn(f"Is this {KINDS[self._other_kind(meaning, rng)]}?", "no", "is kind")

    def _which_kind(self, meaning: Meaning, rng: np.random.Generator) -> Turn:
        two = [KINDS[meaning.kind], KINDS[self._other_kind(meaning, rng)]]
        first, second = (two[i] for i in rng.permutation(2))
        return Turn(f"Is this {first} or {second}?", two[0], "which kind")

    def _name(self, meaning: Meaning, rng: np.random.Generator) -> Turn:
        return Turn(_any(_NAME, rng), meaning.name, "name")

    def _is_name(self, meaning: Meaning, rng: np.random.Generator) -> Turn:
        if rng.random() < 0.5:
            return Turn(f"Is this a {meaning.name}?", "yes", "is name")
        kinds = [kind for kind in self._kinds if set(self._names[kind]) - {meaning.name}]
        kind = meaning.kind if rng.random() < 0.5 else _any(kinds, rng)
        name = _any([n for n in self._names[kind] if n != meaning.name], rng)
        return Turn(f"Is this a {name}?", "no", "is name")

    def _other_kind(self, meaning: Meaning, rng: np.random.Generator) -> str:
        return _any([kind for kind in self._kinds if kind != meaning.kind], rng)


def main_colour(picture: Image.Image) -> str | None:
    """The colour of most of a cut-out (RGBA), if one has most of it."""
    pixels = np.asarray(picture.convert("RGBA"))
    opaque = pixels[..., 3] > 200
    if opaque.mean() < 0.02 or opaque.all():
        return None
    hsv = np.asarray(picture.convert("RGB").convert("HSV"))[opaque].astype(int)
    names = np.array([*_HUES.values(), "black", "white", "gray", "brown", "pink"])
    hue, saturation, value = hsv.T
    found = np.searchsorted([*_HUES][1:], hue, side="right")
    found[(hue < 22) & (saturation > 60) & (value < 170)] = list(names).index("brown")
    found[((hue < 8) | (hue > 220)) & (saturation < 150) & (value > 190)] = list(names).index(
        "pink"
    )
    found[saturation < 40] = list(names).index("gray")
    found[(saturation < 40) & (value > 205)] = list(names).index("white")
    found[value < 55] = list(names).index("black")
    shares = {name: (names[found] == name).mean() for name in set(names)}
    best = str(max(sorted(shares), key=lambda name: shares[name]))
    return best if shares[best] >= _COLOURS else None


# Where each begins on Pillow's circle of 256 hues.
_HUES: Mapping[int, str] = {
    0: "red",
    9: "orange",
    28: "yellow",
    46: "green",
    122: "blue",
    180: "purple",
    222: "pink",
    242: "red",
}


def _coloured(colour: str, rng: np.random.Generator) -> Turn:
    return Turn(_any(_COLOUR, rng), colour, "colour")


def _any(choices: Sequence[str], rng: np.random.Generator) -> str:
    return choices[int(rng.integers(len(choices)))]
