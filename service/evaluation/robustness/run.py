"""Cell by cell: craft, show, ask, judge; a JSON line each, so that a killed run goes on."""

import hashlib
import json
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from filelock import FileLock, Timeout
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import Progress
from threadpoolctl import threadpool_limits

from service.config import Settings
from service.errors import ConfigurationError
from service.evaluation.attacks.budget import l2_distance
from service.evaluation.robustness.certified import Certified, certify
from service.evaluation.robustness.config import AttackConfig, BudgetConfig, Config
from service.evaluation.robustness.crafting import Crafter
from service.evaluation.robustness.defences import Defence, defences, plain
from service.evaluation.robustness.subjects import Subject, Subjects, subjects
from service.evaluation.robustness.tasks import Tasks
from service.evaluation.stability.usefulness import confusion
from service.models.distributions import sha256
from service.models.hardened import weights_file
from service.models.noise import SEED_BYTES
from service.models.store import load_model, resolve
from service.types import Stage

RESULTS, CONFIG = "cells.jsonl", "config.json"
_NONE = "none"


@dataclass(frozen=True, slots=True)
class Cell:
    """One attacked (or clean) picture under one defence.

    Attributes:
        attack, knows, norm, epsilon: "none" and 0 of a clean picture.
        kind, target: what it shows, and what an attack wants.
        label, caption, is_own, is_target: the answers.
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
    caption: str
    is_own: bool
    is_target: bool
    cosine: float
    l2: float
    bound: float
    contradicted: bool | None
    certified_radius: float | None
    certified_right: bool | None
    seconds: float

    @property
    def key(self) -> tuple[str, ...]:
        """What it is of."""
        return (
            self.defence, self.attack, self.knows, f"{self.norm}-{self.epsilon:g}", self.picture,
        )  # fmt: skip


def read_cells(folder: Path) -> list[Cell]:
    """All finished cells of a run; a line that was cut off by a kill is left out."""
    file = folder / RESULTS
    cells = []
    for line in file.read_text(encoding="utf-8").splitlines() if file.exists() else ():
        try:
            cells.append(Cell(**json.loads(line)))
        except (json.JSONDecodeError, TypeError):
            continue
    return cells


def run(settings: Settings, config: Config, folder: Path) -> tuple[list[Cell], dict[str, float]]:
    """Do what is not done yet, and give everything.

    Args:
        settings: of the config's model.
        config: of the table.
        folder: of the run; made where there is none.

    Returns:
        All cells; and by defence the mean cosine of what is shown of DIFFERENT clean pictures,
        against which its bounds are to be read.

    Raises:
        ConfigurationError: the folder is of another config, or in use, or the model cannot.
    """
    folder.mkdir(parents=True, exist_ok=True)
    try:
        blas = threadpool_limits(limits=1, user_api="blas")
        with FileLock(folder / ".lock", timeout=0), blas:
            work = _Run(settings, config, folder)
            work.finish()
            return read_cells(folder), work.different()
    except Timeout as error:
        raise ConfigurationError(f"another run is at work in {folder}") from error


def _same_run(told: str, folder: Path) -> None:
    """Refuse a folder of another config, model or encoder: its cells would be of two minds."""
    file = folder / CONFIG
    if not file.exists():
        part = file.with_suffix(".part")
        part.write_text(told, encoding="utf-8")
        part.replace(file)
    elif file.read_text(encoding="utf-8") != told:
        raise ConfigurationError(
            f"{folder} is of another config, model or encoder, or of other settings; name another"
            " folder"
        )


class _Run:
    """What is loaded for one run."""

    def __init__(self, settings: Settings, config: Config, folder: Path) -> None:
        self._config, self._folder = config, folder
        model = load_model(settings.model, settings)
        c = config
        told = {
            "config": c.model_dump(mode="json"),
            "revision": model.info.revision,
            "encoders": {name: sha256(weights_file(path)) for name, path in c.encoders.items()},
        }
        _same_run(json.dumps(told, indent=1), folder)
        digest = resolve(settings.model, settings).encoder.sha256
        self._rows = defences(model, digest, c.defences, c.encoders, c.sigma, c.answer_samples)
        self._subjects: Subjects = subjects(
            c.pictures, c.classes, c.count, model, settings.max_pixels, c.seed
        )
        answerer = self._rows[0].answerer
        self._tasks = Tasks(answerer, self._subjects.classes)
        self._crafters: dict[tuple[str, int], Crafter] = {}
        self._certificates: dict[tuple[str, str], Certified] = {}
        file = folder / RESULTS
        if file.exists() and not file.read_bytes().endswith(b"\n"):  # killed while it was written
            file.write_bytes(file.read_bytes().rpartition(b"\n")[0] + b"\n")
        self._done = {cell.key for cell in read_cells(folder)}

    def finish(self) -> None:
        """Every cell that is not there yet."""
        cells = list(self._cells())
        with Progress(console=Console(stderr=True)) as progress:
            task = progress.add_task("robustness", total=len(cells) * len(self._subjects.pictures))
            for defence, attack, budget in cells:
                name = f"{defence.name}, {attack.name if attack else 'clean'}"
                progress.update(task, description=f"{name} {budget.name if budget else ''}")
                for subject in self._subjects.pictures:
                    self._one(defence, attack, budget, subject)
                    progress.advance(task)

    def different(self) -> dict[str, float]:
        """Mean cosine of different clean pictures, of each defence."""
        return {
            one.name: confusion(
                np.stack(
                    [
                        one.show(
                            subject.x, self._seed("different", one.name, subject.name)
                        ).embedding
                        for subject in self._subjects.pictures
                    ]
                ).astype(np.float64)
            )
            for one in self._rows
        }

    def _cells(self) -> Iterator[tuple[Defence, AttackConfig | None, BudgetConfig | None]]:
        for defence in self._rows:
            yield defence, None, None
            for attack in self._config.attacks:
                if attack.knows == "defence" and not defence.sigma:
                    continue  # there is nothing more to know
                for budget in self._config.budgets:
                    yield defence, attack, budget

    def _crafter(self, defence: Defence, attack: AttackConfig) -> Crafter:
        """Of what this attacker knows; made where there is something to craft, and once."""
        adaptive, seed = attack.knows == "defence", self._config.seed
        knower = (
            f"adaptive-{defence.name}" if adaptive else f"plain-{defence.encoder or 'original'}"
        )
        key = knower, attack.draws if adaptive else 1
        if key not in self._crafters:
            seen = defence.seen(attack.draws, seed) if adaptive else plain(defence)
            pictures = self._folder / "pictures"
            self._crafters[key] = Crafter(pictures, knower, seen, defence.answerer.shape, seed)
        return self._crafters[key]

    def _one(
        self,
        defence: Defence,
        attack: AttackConfig | None,
        budget: BudgetConfig | None,
        subject: Subject,
    ) -> None:
        where = (
            defence.name,
            attack.name if attack else _NONE,
            attack.knows if attack else _NONE,
            budget.norm if budget else _NONE,
            budget.epsilon if budget else 0.0,
            subject.name,
        )
        if (*where[:3], f"{where[3]}-{where[4]:g}", where[5]) in self._done:
            return
        x = subject.x
        if attack is not None and budget is not None:
            x = self._crafter(defence, attack).craft(subject, attack, budget)
        seed = self._seed("shown", *map(str, where))
        began = time.perf_counter()
        shown = defence.show(x, seed)
        answers = self._tasks.ask(shown.tokens, subject.kind, self._subjects.target_kind)
        seconds = time.perf_counter() - began
        certified = self._certified(defence, subject)
        distance = l2_distance(subject.x, x)
        clean = attack is None
        voted = self._voted(certified, subject) if clean else (None, None)
        cell = Cell(
            defence=where[0],
            attack=where[1],
            knows=where[2],
            norm=where[3],
            epsilon=where[4],
            picture=where[5],
            kind=subject.kind,
            target=self._subjects.target_kind,
            label=answers.label,
            caption=answers.caption,
            is_own=answers.is_own,
            is_target=answers.is_target,
            cosine=float(shown.embedding @ self._clean(defence, subject)),
            l2=distance,
            bound=certified.bound(distance) if certified else -1.0,
            contradicted=None if clean else self._judged(defence, x, certified, distance, seed),
            certified_radius=voted[0],
            certified_right=voted[1],
            seconds=seconds,
        )
        with (self._folder / RESULTS).open("a", encoding="utf-8") as file:
            file.write(json.dumps(asdict(cell)) + "\n")

    def _voted(
        self, certified: Certified | None, subject: Subject
    ) -> tuple[float | None, bool | None]:
        """How far the class of a clean picture is certified, and whether it is right."""
        if certified is None or certified.label is None:
            return None, None
        right = self._subjects.classes[certified.label] == subject.kind
        return certified.radius, right

    def _judged(
        self,
        defence: Defence,
        x: NDArray[np.uint8],
        certified: Certified | None,
        distance: float,
        seed: bytes,
    ) -> bool | None:
        """Whether fresh features contradict the certificate; their noise is drawn after x' is."""
        if certified is None or certified.bound(distance) <= -1:
            return None
        fresh = defence.draw(x, seed, Stage.ESTIMATE, self._config.rescored)[0]
        return certified.contradicted(fresh, distance)

    def _certified(self, defence: Defence, subject: Subject) -> Certified | None:
        """Of the clean picture; made once a process, always the same."""
        if not defence.sigma:
            return None
        key = defence.name, subject.name
        if key not in self._certificates:
            c = self._config
            radii = tuple(b.epsilon for b in c.budgets if b.norm == "l2") or (c.sigma,)
            told = (defence.name, _NONE, _NONE, f"{_NONE}-0", subject.name) in self._done
            votes = 0 if told else c.votes
            self._certificates[key] = certify(
                defence, subject.x, radii, c.estimation, votes, self._tasks,
                self._seed("certificate", *key),
            )  # fmt: skip
        return self._certificates[key]

    def _clean(self, defence: Defence, subject: Subject) -> NDArray[np.float32]:
        """What is shown of the clean picture."""
        if not defence.sigma:
            return defence.show(subject.x, bytes(SEED_BYTES)).embedding
        certified = self._certified(defence, subject)
        assert certified is not None  # noqa: S101 - by the line above
        return certified.embedding

    def _seed(self, *names: str) -> bytes:
        """Noise of its own for everything that has a name."""
        told = json.dumps([self._config.seed, *names]).encode()
        return hashlib.blake2b(told, digest_size=SEED_BYTES).digest()
