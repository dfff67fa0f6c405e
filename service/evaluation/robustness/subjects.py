"""The pictures of a table: what each shows, and what an attack wants it to be taken for.

Kinds are the most frequent of a set; pictures of one more kind are the targets, and never subjects.
"""

import hashlib
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from service.errors import ConfigurationError
from service.evaluation.quiz import chosen
from service.models.loaded import LoadedModel
from service.pictures.files import read_picture
from service.pictures.meanings import meanings
from service.types import Preprocessing


@dataclass(frozen=True, slots=True)
class Subject:
    """One attacked picture.

    Attributes:
        name: of its file; with some of the digest of its path, where another has the same.
        x: uint8 [3, H, W].
        kind: what it shows.
        target: of the other kind, whose features attacks want, uint8 [3, H, W].
    """

    name: str
    x: NDArray[np.uint8]
    kind: str
    target: NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Subjects:
    """All of a table.

    Attributes:
        kinds: that pictures are of, in alphabetical order.
        target_kind: the one that they shall be taken for.
    """

    kinds: tuple[str, ...]
    target_kind: str
    pictures: tuple[Subject, ...]

    @property
    def classes(self) -> tuple[str, ...]:
        """All that an answer may choose among."""
        return (*self.kinds, self.target_kind)

    @property
    def digest(self) -> str:
        """Of every picture, its kind and its target."""
        told = hashlib.sha256(repr((self.kinds, self.target_kind)).encode())
        for one in self.pictures:
            told.update(f"{one.name}\0{one.kind}\0".encode())
            told.update(one.x.tobytes() + one.target.tobytes())
        return told.hexdigest()


def subjects(
    folder: Path, classes: int, count: int, model: LoadedModel, most_pixels: int, seed: int
) -> Subjects:
    """Choose them, the kinds in turn.

    Raises:
        ConfigurationError: a set with too few kinds or pictures.
    """
    known = meanings(folder)
    frequent = [kind for kind, _ in Counter(m.kind for m in known.values()).most_common()]
    if len(frequent) < classes + 1:
        raise ConfigurationError(f"{folder} has {len(frequent)} kinds; {classes} + 1 are wanted")
    kinds, target_kind = tuple(sorted(frequent[:classes])), frequent[classes]
    rng = np.random.default_rng(seed)
    own = chosen({f: m for f, m in known.items() if m.kind in kinds}, count, rng)
    targets = list(chosen({f: m for f, m in known.items() if m.kind == target_kind}, count, rng))
    if len(own) < count:
        raise ConfigurationError(f"{folder} has {len(own)} pictures of these kinds, not {count}")
    how: Preprocessing = model.preprocessing

    def read(file: Path) -> NDArray[np.uint8]:
        return read_picture(file, how, most_pixels)

    stems = Counter(file.stem for file in own)

    def name(file: Path) -> str:
        if stems[file.stem] == 1:
            return file.stem
        where = str(file.relative_to(folder)).encode()
        return f"{file.stem}-{hashlib.sha256(where).hexdigest()[:8]}"

    return Subjects(
        kinds,
        target_kind,
        tuple(
            Subject(name(file), read(file), one.kind, read(targets[i % len(targets)]))
            for i, (file, one) in enumerate(own.items())
        ),
    )
