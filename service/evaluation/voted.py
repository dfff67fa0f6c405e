"""What closed answers are worth: right ones, and right ones that are certified at a distance.

Asked of the service's own core, as a client would: yes/no questions of pictures whose meaning is
known, with choices and votes. Certified accuracy (Cohen et al. 2019, arXiv:1902.02918): the share
of questions whose answer is right and certified to at least a radius.
"""

import asyncio
import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from service.config import Settings
from service.core import Core
from service.evaluation.quiz import Question, chosen, questions, share
from service.pictures.meanings import meanings
from service.types import AnswerRequest, AnswerResult, EmbedRequest, Message

CHOICES = ("yes", "no")


@dataclass(frozen=True, slots=True)
class Report:
    """What was measured.

    Attributes:
        right: share of answers, certified or not, its interval and how many questions there were.
        abstained: share of answers without a radius.
        certified: share of answers that are right and certified to at least each radius.
        seconds: median of a whole request.
    """

    model: str
    revision: str
    pictures: int
    sigma: float
    votes: int
    right: tuple[float, float, float, int]
    abstained: float
    certified: dict[float, tuple[float, float, float, int]]
    seconds: float

    def as_json(self) -> dict[str, Any]:
        """For one JSON line."""
        return {"bench": "votes", **asdict(self)}


def evaluate(
    settings: Settings,
    folder: Path,
    sigma: float,
    votes: int,
    radii: Sequence[float],
    limit: int | None,
    seed: int,
) -> Report:
    """Ask the settings' model yes or no about the pictures of a set.

    Args:
        settings: frozen.
        folder: of a set whose pictures' meanings are known.
        sigma: noise level.
        votes: draws that vote on each answer.
        radii: at which certified accuracy is told.
        limit: only so many pictures, the kinds in turn.
        seed: of the choice and the questions; the noise is fresh.

    Raises:
        ConfigurationError: a set of unknown meanings.
        ServiceError: a model without a language, or without this noise level.
    """
    rng = np.random.default_rng(seed)
    files = chosen(meanings(folder), limit, rng)
    asked = [q for q in questions(list(files.values()), rng) if q.about == "yes/no"]
    with Progress(console=Console(stderr=True)) as progress:
        task = progress.add_task("asking", total=len(asked))
        found = asyncio.run(
            _ask(settings, list(files), asked, sigma, votes, lambda: progress.advance(task))
        )
    right = [one.answer == q.answer for one, q in zip(found, asked, strict=True)]
    reach = [one.vote.certified_radius if one.vote else 0.0 for one in found]
    return Report(
        model=found[0].model,
        revision=found[0].revision,
        pictures=len(files),
        sigma=sigma,
        votes=votes,
        right=share(right),
        abstained=sum(radius == 0 for radius in reach) / len(reach),
        certified={
            radius: share(
                [ok and at > 0 and at >= radius for ok, at in zip(right, reach, strict=True)]
            )
            for radius in radii
        },
        seconds=statistics.median(one.timing.total_ms for one in found) / 1000,
    )


async def _ask(
    settings: Settings,
    files: Sequence[Path],
    asked: Sequence[Question],
    sigma: float,
    votes: int,
    done: Callable[[], None],
) -> list[AnswerResult]:
    core = Core(settings)
    await core.start()
    try:
        found = []
        for question in asked:
            images = (files[question.picture].read_bytes(),)
            request = AnswerRequest(
                EmbedRequest(images, sigma=sigma, certify=False),
                (Message("user", (None, question.text)),),
                choices=CHOICES,
                votes=votes,
            )
            found.append(await core.answer(request))
            done()
        return found
    finally:
        await core.drain()


def show(report: Report) -> None:
    """Print the table on standard output."""
    title = (
        f"{report.model}, {report.pictures} pictures, σ = {report.sigma:g}, {report.votes} votes"
    )
    table = Table(title=title)
    for heading in ("yes or no", "share"):
        table.add_column(heading)
    table.add_row("right", _told(report.right))
    for radius, found in report.certified.items():
        table.add_row(f"right and certified within {radius:g}", _told(found))
    table.add_row("abstained", f"{report.abstained:.2f}")
    table.add_row("s an answer", f"{report.seconds:.1f}")
    Console(width=100).print(table)


def _told(found: tuple[float, float, float, int]) -> str:
    return f"{found[0]:.2f} ({found[1]:.2f}–{found[2]:.2f})"
