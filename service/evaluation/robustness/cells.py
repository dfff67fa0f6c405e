"""What a run writes: a JSON line for each picture under each attack and defence."""

import errno
import json
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TypeVar

RESULTS = "cells.jsonl"
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Cell:
    """One attacked (or clean) picture under one defence.

    Attributes:
        attack, knows, norm, epsilon: "none" and 0 of a clean picture.
        kind, target: what it shows, and what an attack wants.
        label, caption, is_own, is_target: the answers; None of what the model cannot be asked.
        cosine: of what is shown with what is shown of the clean picture.
        l2: distance of the two pictures, RGB in [0, 1].
        bound: certified at that distance; -1: nothing.
        contradicted: fresh features convict the certificate; None: there was nothing to judge.
        certified_radius: of the voted class, of a clean picture; None where there was no vote.
        certified_right: whether that class is the right one.
        seconds: to show the picture and answer.
    """

    defence: str
    attack: str
    knows: str
    norm: str
    epsilon: float
    picture: str
    kind: str
    target: str
    label: str
    caption: str | None
    is_own: bool | None
    is_target: bool | None
    cosine: float
    l2: float
    bound: float
    contradicted: bool | None
    certified_radius: float | None
    certified_right: bool | None
    seconds: float

    @property
    def row(self) -> tuple[str, ...]:
        """Defence, attack and size."""
        return self.defence, self.attack, self.knows, f"{self.norm}-{self.epsilon:g}"

    @property
    def key(self) -> tuple[str, ...]:
        """What it is of."""
        return (*self.row, self.picture)


def read_cells(folder: Path) -> list[Cell]:
    """All finished cells of a run; a line that was cut off by a kill is left out."""
    return read_lines(folder / RESULTS, Cell)


def read_lines(file: Path, make: Callable[..., T]) -> list[T]:
    """What each line of a file is the fields of; none of one that is not there."""
    found = []
    for line in file.read_text(encoding="utf-8").splitlines() if file.exists() else ():
        try:
            found.append(make(**json.loads(line)))
        except (json.JSONDecodeError, TypeError):
            continue
    return found


def append(folder: Path, cell: Cell) -> None:
    """Write one more; several processes may."""
    append_line(folder / RESULTS, json.dumps(asdict(cell)))


def append_line(file: Path, line: str) -> None:
    """Write a line at once, or those of two processes would mix."""
    opened = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        whole = line.encode() + b"\n"
        if os.write(opened, whole) != len(whole):
            raise OSError(errno.ENOSPC, "a line was cut off", str(file))
    finally:
        os.close(opened)


def mend(file: Path) -> None:
    """Drop what was cut off while it was written, so that the next line is one of its own."""
    if file.exists() and not file.read_bytes().endswith(b"\n"):
        whole = file.read_bytes().rpartition(b"\n")[0]
        part = file.with_suffix(".part")
        part.write_bytes(whole + b"\n" if whole else b"")
        part.replace(file)
