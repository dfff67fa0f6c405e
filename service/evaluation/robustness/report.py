"""Tables with an interval on every figure, from the cells of a run."""

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from scipy import stats

from service.evaluation.quiz import share
from service.evaluation.robustness.cells import Cell

KNOWN = {"encoder": "plain", "defence": "adaptive", "surrogates": "black box"}
_TASKS = "class", "caption", "vqa"
Told = tuple[float, float, float, int]  # figure, ends of its 95 % interval, how many
_HEADINGS = (
    "defence", "attack", "knows", "budget", "l2 reached", "class ACC", "class ASR", "caption ACC",
    "caption ASR", "VQA ACC", "VQA ASR", "FCS", "FCSB", "contradicted", "s",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Line:
    """All pictures of one defence under one attack of one size.

    Attributes:
        accuracy, success: by task: right answers, and answers that the attack wanted.
        cosine: of what is shown with what is shown of the clean picture (FCS).
        bound: mean of what is certified at the distance of the attacks (FCSB), of the pictures
            of which anything is; -1 where nothing is of any.
        bounded: how many those are.
        contradicted: certificates convicted by fresh features, of those that promised anything.
        l2: mean distance that was reached.
        certified: of clean pictures: right and certified class, by l2 radius.
    """

    defence: str
    attack: str
    knows: str
    norm: str
    epsilon: float
    accuracy: dict[str, Told]
    success: dict[str, Told]
    cosine: Told
    bound: float
    bounded: int
    contradicted: tuple[int, int]
    l2: float
    certified: dict[float, Told]
    seconds: float

    @property
    def budget(self) -> str:
        """As a person writes it."""
        if self.attack == "none":
            return ""
        return f"ℓ2 {self.epsilon:g}" if self.norm == "l2" else f"ℓ∞ {self.epsilon:g}/255"


def summarise(cells: Iterable[Cell], radii: Sequence[float]) -> list[Line]:
    """Cells by defence, attack and size, in the order they came.

    Args:
        cells: of a run.
        radii: l2, of certified accuracy.
    """
    groups: dict[tuple[Any, ...], list[Cell]] = defaultdict(list)
    for cell in cells:
        groups[cell.defence, cell.attack, cell.knows, cell.norm, cell.epsilon].append(cell)
    return [_line(group, radii) for group in groups.values()]


def markdown(lines: Sequence[Line], different: Mapping[str, float]) -> str:
    """Tables of all lines, of certified classes, and of the strongest attacks.

    Args:
        lines: of a run.
        different: by defence, the mean cosine of what is shown of different pictures.
    """
    rows = ["| " + " | ".join(_HEADINGS) + " |", "|" + "---|" * len(_HEADINGS)]
    for line in lines:
        convicted, judged = line.contradicted
        told = (
            line.defence,
            line.attack,
            line.knows,
            line.budget,
            f"{line.l2:.2f}",
            *(
                _told(one[task]) if task in one else ""
                for task in _TASKS
                for one in (line.accuracy, line.success)
            ),
            _told(line.cosine),
            f"{line.bound:.2f} (of {line.bounded})" if line.bounded else "",
            f"{convicted} of {judged}" if judged else "",
            f"{line.seconds:.2f}",
        )
        rows.append("| " + " | ".join(told) + " |")
    rows += ["", *_strongest(lines)]
    certified = [line for line in lines if line.certified]
    if certified:
        radii = list(certified[0].certified)
        rows += ["", "| right and certified class within |" + "".join(f" {r:g} |" for r in radii)]
        rows += ["|---|" + "---|" * len(radii)]
        for line in certified:
            told = tuple(_told(line.certified[radius]) for radius in radii)
            rows.append(f"| {line.defence} | " + " | ".join(told) + " |")
    rows += ["", "| defence | cosine of different pictures |", "|---|---|"]
    rows += [f"| {name} | {cosine:.2f} |" for name, cosine in different.items()]
    convicted, judged = (sum(line.contradicted[i] for line in lines) for i in (0, 1))
    rows += ["", f"Certificates judged under attack: {judged}; contradicted: {convicted}."]
    return "\n".join(rows) + "\n"


def as_json(lines: Sequence[Line], different: Mapping[str, float]) -> dict[str, Any]:
    """For one JSON line."""
    told = [asdict(line) for line in lines]
    return {"bench": "robustness", "lines": told, "different": dict(different)}


def _strongest(lines: Sequence[Line]) -> list[str]:
    """What the strongest attacks reach, plain and adaptive, of each defence."""
    rows = ["| strongest | class ASR | VQA ASR | class ACC | VQA ACC |", "|---|---|---|---|---|"]
    groups: dict[str, list[Line]] = defaultdict(list)
    for line in lines:
        if line.attack != "none":
            groups[f"{line.defence}, {KNOWN[line.knows]}"].append(line)
    for name, found in groups.items():
        told = [name]
        for pick, task, best in (
            ("success", "class", max), ("success", "vqa", max),
            ("accuracy", "class", min), ("accuracy", "vqa", min),
        ):  # fmt: skip
            shares = [
                (getattr(line, pick)[task][0], line)
                for line in found
                if task in getattr(line, pick)
            ]
            if not shares:
                told.append("")
                continue
            reached = best(share for share, _ in shares)
            line = next(line for share, line in shares if share == reached)
            told.append(f"{reached:.2f} ({line.attack}, {line.budget})")
        rows.append("| " + " | ".join(told) + " |")
    return rows


def _line(cells: list[Cell], radii: Sequence[float]) -> Line:
    judged = [cell.contradicted for cell in cells if cell.contradicted is not None]
    reach = [cell for cell in cells if cell.certified_radius is not None]
    asked = [cell for cell in cells if cell.is_own is not None]  # of a model with a language
    accuracy = {"class": share([cell.label == cell.kind for cell in cells])}
    success = {"class": share([cell.label == cell.target for cell in cells])}
    if asked:
        yes_no = [bool(one) for c in asked for one in (c.is_own, not c.is_target)]
        accuracy["caption"] = share([cell.caption == cell.kind for cell in asked])
        accuracy["vqa"] = share(yes_no)
        success["caption"] = share([cell.caption == cell.target for cell in asked])
        success["vqa"] = share([bool(cell.is_target) for cell in asked])
    first, bounds = cells[0], [cell.bound for cell in cells if cell.bound > -1]
    return Line(
        defence=first.defence,
        attack=first.attack,
        knows=first.knows,
        norm=first.norm,
        epsilon=first.epsilon,
        accuracy=accuracy,
        success=success,
        cosine=_mean([cell.cosine for cell in cells]),
        bound=float(np.mean(bounds)) if bounds else -1.0,
        bounded=len(bounds),
        contradicted=(sum(judged), len(judged)),
        l2=float(np.mean([cell.l2 for cell in cells])),
        certified={
            radius: share([_holds(cell, radius) for cell in reach]) for radius in radii if reach
        },
        seconds=float(np.median([cell.seconds for cell in cells])),
    )


def _holds(cell: Cell, radius: float) -> bool:
    reach = cell.certified_radius or 0.0
    return bool(cell.certified_right) and reach > 0 and reach >= radius


def _mean(values: Sequence[float]) -> Told:
    """With Student's interval."""
    n, mean = len(values), float(np.mean(values))
    if n < 2:
        return mean, mean, mean, n
    half = float(stats.t.ppf(0.975, n - 1)) * float(np.std(values, ddof=1)) / math.sqrt(n)
    return mean, mean - half, mean + half, n


def _told(found: Told) -> str:
    return f"{found[0]:.2f} ({found[1]:.2f}–{found[2]:.2f})"
