"""What answers are worth: right ones with and without smoothing, and what they cost."""

import statistics
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from threadpoolctl import threadpool_limits

from service.config import Settings
from service.errors import ConfigurationError
from service.evaluation.quiz import Question, abouts, chosen, plain, questions, share
from service.evaluation.showing import shown_of
from service.evaluation.stability.measure import Effort
from service.evaluation.stability.usefulness import confusion
from service.evaluation.stability.variants import variants
from service.models.answerer.answerer import Answerer
from service.models.answerer.decoding import Decoder
from service.models.lanes import Lanes
from service.models.loaded import LoadedModel
from service.models.sampler import make_sampler
from service.models.store import load_model
from service.pictures.files import read_picture
from service.pictures.meanings import meanings
from service.types import Generation, Message

_MOST_TOKENS = 8


@dataclass(frozen=True, slots=True)
class Row:
    """One way of showing pictures.

    Attributes:
        shown: none (clean), FS, or FS with the model's own parts.
        samples: draws whose mean was shown; 0 without noise.
        right: of each kind of question, the share that is right, its interval and how many.
        different: mean cosine of what is shown of DIFFERENT pictures: the nearer to 1, the less a
            bound says of this model.
        seconds: median of a whole answer, features included.
    """

    shown: str
    sigma: float
    samples: int
    right: dict[str, tuple[float, float, float, int]]
    different: float
    seconds: float


@dataclass(frozen=True, slots=True)
class Report:
    """What was measured; `chance` is a guess, `majority` the most frequent answer every time."""

    model: str
    revision: str
    pictures: int
    chance: dict[str, float]
    majority: dict[str, float]
    rows: tuple[Row, ...]

    def as_json(self) -> dict[str, Any]:
        """For one JSON line."""
        return {"bench": "answers", **asdict(self)}


def evaluate(
    settings: Settings,
    folder: Path,
    sigma: float,
    samples: Sequence[int],
    limit: int | None,
    seed: int,
) -> Report:
    """Ask the settings' model about the pictures of a set.

    Args:
        settings: frozen.
        folder: of a set whose pictures' meanings are known.
        sigma: noise level.
        samples: numbers of draws to be shown.
        limit: only so many pictures, the kinds in turn.
        seed: of the choice, the questions and the noise.

    Raises:
        ConfigurationError: a model without a language, or a set of unknown meanings.
    """
    model = load_model(settings.model, settings)
    if (answerer := model.answerer) is None:
        raise ConfigurationError(f"{model.name} has no language to answer in")
    if sigma not in model.sigmas:
        raise ConfigurationError(f"{model.name} has no noise level {sigma:g}")
    rng = np.random.default_rng(seed)
    files = chosen(meanings(folder), limit, rng)
    how, most = model.preprocessing, settings.max_pixels
    pictures = [read_picture(file, how, most) for file in files]
    asked = list(questions(list(files.values()), rng))
    ways = [("none", model, 0.0, 0)]
    named = {"FS": "FS", "FS+Purifier": "FS-PSM", "FS+PSM": "FS-PSM"}
    for name, variant in variants(model):
        if name in named:
            ways += [(named[name], variant, sigma, n) for n in samples]
    rows = []
    with (
        closing(Lanes(model.lanes, model.threads)) as lanes,
        threadpool_limits(limits=1, user_api="blas"),
        Progress(console=Console(stderr=True)) as progress,
    ):
        task = progress.add_task("asking", total=len(ways) * len(asked))
        for shown, variant, noise, n in ways:
            progress.update(task, description=f"{shown}, {n} samples" if n else shown)
            rows.append(
                _row(
                    (shown, noise, n), variant, answerer, pictures, asked, seed, lanes,
                    lambda: progress.advance(task),
                )
            )  # fmt: skip
    groups = {about: [q.answer for q in asked if q.about == about] for about in abouts(asked)}
    return Report(
        model.name,
        model.revision,
        len(pictures),
        {about: 1 / len(set(answers)) for about, answers in groups.items()},
        {
            about: max(answers.count(one) for one in set(answers)) / len(answers)
            for about, answers in groups.items()
        },
        tuple(rows),
    )


def show(report: Report) -> None:
    """Print the table on standard output."""
    table = Table(title=f"{report.model}, {report.pictures} pictures")
    abouts = list(report.chance)
    for heading in ("shown", "σ", "samples", *abouts, "different", "s an answer"):
        table.add_column(heading)
    for row in report.rows:
        told = [
            f"{row.right[a][0]:.2f} ({row.right[a][1]:.2f}–{row.right[a][2]:.2f})" for a in abouts
        ]
        samples = str(row.samples or "")
        sigma = f"{row.sigma:g}" if row.sigma else ""
        table.add_row(
            row.shown, sigma, samples, *told, f"{row.different:.3f}", f"{row.seconds:.2f}"
        )
    for name, found in (("chance", report.chance), ("majority", report.majority)):
        table.add_row(name, "", "", *(f"{found[about]:.2f}" for about in abouts), "", "")
    Console(width=140).print(table)


def _row(
    way: tuple[str, float, int],
    model: LoadedModel,
    answerer: Answerer,
    pictures: Sequence[NDArray[np.uint8]],
    asked: Sequence[Question],
    seed: int,
    lanes: Lanes,
    done: Any,
) -> Row:
    shown, sigma, samples = way
    sampler = make_sampler(model)
    decoder = answerer.decoder()
    right: dict[str, list[bool]] = {about: [] for about in abouts(asked)}
    seconds, embeddings = [], []
    effort = Effort(max(samples, 1), 0, 2, (), 0.999, seed)
    for i, picture in enumerate(pictures):
        began = time.perf_counter()
        seed_of = effort.noise_seed(i)
        told = shown_of(model, answerer, picture, sigma, samples, seed_of, lanes, sampler)
        embeddings.append(told.embedding)
        took = time.perf_counter() - began
        for question in (q for q in asked if q.picture == i):
            began = time.perf_counter()
            said = _said(answerer, decoder, question.text, told.tokens)
            seconds.append(took + time.perf_counter() - began)
            right[question.about].append(plain(said) == plain(question.answer))
            done()
    shares = {about: share(found) for about, found in right.items()}
    different = confusion(np.stack(embeddings).astype(np.float64))
    return Row(shown, sigma, samples, shares, different, statistics.median(seconds))


def _said(answerer: Answerer, decoder: Decoder, question: str, token_map: Any) -> str:
    prompt = answerer.prompter.write((Message("user", (None, question)),), "prompt")
    row = decoder.begin(prompt, [token_map], Generation(_MOST_TOKENS))
    while row.finish is None:
        decoder.step()
    return answerer.text(row.ids)
