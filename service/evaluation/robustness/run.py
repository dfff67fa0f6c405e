"""Cell by cell: craft, show, ask, judge."""

import hashlib
import json
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from filelock import FileLock, Timeout
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import Progress
from threadpoolctl import threadpool_limits

from service.config import Settings
from service.errors import ConfigurationError
from service.evaluation.attacks.budget import l2_distance
from service.evaluation.attacks.seen import Seen
from service.evaluation.robustness.cells import RESULTS, Cell, append, mend, read_cells
from service.evaluation.robustness.certified import Certified, certify
from service.evaluation.robustness.config import AttackConfig, BudgetConfig, Config
from service.evaluation.robustness.crafting import Crafter
from service.evaluation.robustness.defences import Defence, defences, plain, surrogate
from service.evaluation.robustness.identity import claim
from service.evaluation.robustness.subjects import Subject, Subjects, subjects
from service.evaluation.robustness.sweep import SAMPLES, SampleCell, append_sample, read_samples
from service.evaluation.robustness.tasks import Tasks, tasks_of
from service.evaluation.robustness.workers import end_with_parent, share_out
from service.evaluation.stability.usefulness import confusion
from service.models.noise import SEED_BYTES
from service.models.packages import Manifest
from service.models.store import load_model, resolve
from service.types import Stage

_NONE = "none"
_TOLD_EVERY_S = 2.0


@dataclass(frozen=True, slots=True)
class Found:
    """What a run came to, in the order of its config.

    Attributes:
        cells: all.
        samples: of the sweep.
        different: by defence, the mean cosine of what is shown of DIFFERENT clean pictures,
            against which its bounds are to be read.
    """

    cells: list[Cell]
    samples: list[SampleCell]
    different: dict[str, float]


def run(settings: Settings, config: Config, folder: Path, workers: int) -> Found:
    """Do what is not done yet, and give everything that the config asks for.

    Args:
        settings: of the config's model.
        config: of the table.
        folder: of the run; made where there is none.
        workers: processes, of one thread each; how many does not change a result.

    Raises:
        ConfigurationError: the folder is of another run, or in use, or the model cannot.
    """
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(folder / ".lock", timeout=0):
            table = _Table(settings, config, folder)
            claim(folder, config, table.revision, table.pictures, table.surrogates)
            mend(folder / RESULTS)
            mend(folder / SAMPLES)
            table.finish(workers)
            found = {cell.key: cell for cell in read_cells(folder)}
            samples = {cell.key: cell for cell in read_samples(folder)}
            missing = {*table.cells()} - found.keys(), {*table.samples()} - samples.keys()
            if any(missing):
                raise ConfigurationError(
                    f"{folder}: {len(missing[0]) + len(missing[1])} lines cannot be read; the same"
                    " command makes them anew"
                )
            return Found(
                [found[key] for key in table.cells()],
                [samples[key] for key in table.samples()],
                table.different(),
            )
    except Timeout as error:
        raise ConfigurationError(f"another run is at work in {folder}") from error


def work(settings: Settings, config: Config, folder: Path, share: int, of: int) -> None:
    """One worker: every cell of pictures `share`, `share + of`, ... that is not there yet."""
    end_with_parent()
    try:
        _Table(settings, config, folder).do(share, of)
    except ConfigurationError as error:
        sys.stderr.write(f"fcs: {error}\n")
        sys.exit(2)


class _Table:
    """What is loaded for one run, in each of its processes."""

    def __init__(self, settings: Settings, config: Config, folder: Path) -> None:
        # One thread, whoever works: how sums are divided is part of the smoothed function.
        settings = settings.model_copy(update={"lanes": 1, "threads": 1})
        torch.set_num_threads(1)
        threadpool_limits(limits=1, user_api="blas")
        self._settings, self._config, self._folder = settings, config, folder
        model, c = load_model(settings.model, settings), config
        self.revision = model.info.revision
        manifest = resolve(settings.model, settings)
        self._rows = defences(
            model, manifest, c.defences, c.encoders, c.mapper_files, c.sigma, c.answer_samples
        )
        self._subjects: Subjects = subjects(
            c.pictures, c.classes, c.count, model, settings.max_pixels, c.seed
        )
        self.pictures = self._subjects.digest
        self.surrogates = {name: self._surrogate(name, manifest) for name in c.surrogates}
        if model.pipeline.encoder.shape is None and any(a.goal == "tokens" for a in c.attacks):
            raise ConfigurationError(
                f"{model.name}: attacks after tokens want a token map, its feature is one vector"
            )
        self._tasks: Tasks = tasks_of(model, self._subjects.classes)
        self._crafters: dict[tuple[str, int], Crafter] = {}
        self._surrogates: tuple[Seen, ...] = ()
        self._certificates: dict[tuple[str, str], Certified] = {}
        self._done: set[tuple[str, ...]] = set()

    def _surrogate(self, name: str, own: Manifest) -> str:
        """Digest of its weights, before hours are spent; the model itself is no black box."""
        found = resolve(name, self._settings.model_copy(update={"model": name})).encoder.sha256
        if found == own.encoder.sha256:
            raise ConfigurationError(f"surrogate {name!r} is the model's own encoder")
        return found

    def finish(self, workers: int) -> None:
        """Every cell that is not there yet, in so many processes."""
        cells, samples = set(self.cells()), set(self.samples())
        wanted = len(cells) + len(samples)

        def done() -> int:
            shown = {cell.key for cell in read_samples(self._folder)} & samples
            return len({cell.key for cell in read_cells(self._folder)} & cells) + len(shown)

        with Progress(console=Console(stderr=True)) as progress:
            task = progress.add_task("robustness", total=wanted, completed=done())
            if done() == wanted:
                return

            told = time.monotonic()

            def tick() -> None:
                nonlocal told
                if time.monotonic() - told > _TOLD_EVERY_S:  # reading all lines takes its time
                    progress.update(task, completed=done())
                    told = time.monotonic()

            if workers == 1:
                self.do(0, 1, tick)
            else:
                share_out(work, self._settings, self._config, self._folder, workers, tick)
            progress.update(task, completed=done())

    def do(self, share: int, of: int, tick: Callable[[], None] = lambda: None) -> None:
        """Every cell of a share of the pictures that is not there yet."""
        self._done = {cell.key for cell in read_cells(self._folder)}
        for defence, attack, budget in self._work():
            for subject in self._subjects.pictures[share::of]:
                self._one(defence, attack, budget, subject)
                tick()
        shown = {cell.key for cell in read_samples(self._folder)}
        for key, defence, subject in self._sweep(share, of):
            if key not in shown:
                append_sample(self._folder, self._sample(defence, key[1], subject))
                tick()

    def cells(self) -> Iterator[tuple[str, ...]]:
        """The key of every cell of the table, in its order."""
        for defence, attack, budget in self._work():
            for subject in self._subjects.pictures:
                yield (*_row(defence, attack, budget), subject.name)

    def samples(self) -> Iterator[tuple[str, int, str]]:
        """The key of every part of the sweep, in its order."""
        for key, _, _ in self._sweep(0, 1):
            yield key

    def _sweep(
        self, share: int, of: int
    ) -> Iterator[tuple[tuple[str, int, str], Defence, Subject]]:
        for defence in self._rows:
            for count in self._config.sweep if defence.sigma else ():
                for subject in self._subjects.pictures[share::of]:
                    yield (defence.name, count, subject.name), defence, subject

    def _sample(self, defence: Defence, count: int, subject: Subject) -> SampleCell:
        seed = self._seed("sweep", defence.name, str(count), subject.name)
        began = time.perf_counter()
        shown = replace(defence, samples=count).show(subject.x, seed)
        right = self._tasks.label(shown) == subject.kind
        seconds = time.perf_counter() - began
        return SampleCell(defence.name, count, subject.name, right, seconds)

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

    def _work(self) -> Iterator[tuple[Defence, AttackConfig | None, BudgetConfig | None]]:
        for defence in self._rows:
            yield defence, None, None
            for attack in self._config.attacks:
                if attack.knows == "defence" and not defence.sigma:
                    continue  # there is nothing more to know
                if attack.defences and defence.name not in attack.defences:
                    continue
                for budget in self._config.budgets:
                    yield defence, attack, budget

    def _crafter(self, defence: Defence, attack: AttackConfig) -> Crafter:
        """Of what this attacker knows; made where there is something to craft, and once."""
        seed, draws = self._config.seed, 1
        match attack.knows:
            case "defence":
                knower, draws = f"adaptive-{defence.name}", attack.draws
            case "surrogates":
                knower = "surrogates"
            case "encoder":
                knower = f"plain-{defence.encoder or 'original'}"
        key = f"{knower}{'-ensemble' if attack.ensemble else ''}", draws
        if key not in self._crafters:
            seen = (
                (defence.seen(draws, seed),) if attack.knows == "defence"
                else self._others() if attack.knows == "surrogates"
                else (plain(defence), *(self._others() if attack.ensemble else ()))
            )  # fmt: skip
            pictures, shape = self._folder / "pictures", defence.model.pipeline.encoder.shape
            self._crafters[key] = Crafter(pictures, knower, seen, shape, seed)
        return self._crafters[key]

    def _others(self) -> tuple[Seen, ...]:
        """The surrogates, loaded where an attack wants them."""
        if not self._surrogates:
            self._surrogates = tuple(
                surrogate(load_model(name, self._settings.model_copy(update={"model": name})))
                for name in self._config.surrogates
            )
        return self._surrogates

    def _one(
        self,
        defence: Defence,
        attack: AttackConfig | None,
        budget: BudgetConfig | None,
        subject: Subject,
    ) -> None:
        where = *_row(defence, attack, budget), subject.name
        if where in self._done:
            return
        x = subject.x
        if attack is not None and budget is not None:
            x = self._crafter(defence, attack).craft(subject, attack, budget)
        norm, epsilon = (budget.norm, budget.epsilon) if budget else (_NONE, 0.0)
        seed = self._seed("shown", *where[:3], norm, str(epsilon), subject.name)
        began = time.perf_counter()
        shown = defence.show(x, seed)
        answers = self._tasks.ask(shown, subject.kind, self._subjects.target_kind)
        seconds = time.perf_counter() - began
        certified = self._certified(defence, subject)
        distance = l2_distance(subject.x, x)
        clean = attack is None
        voted = self._voted(certified, subject) if clean else (None, None)
        cell = Cell(
            defence=where[0],
            attack=where[1],
            knows=where[2],
            norm=norm,
            epsilon=epsilon,
            picture=subject.name,
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
        append(self._folder, cell)

    def _voted(
        self, certified: Certified | None, subject: Subject
    ) -> tuple[float | None, bool | None]:
        """How far the class of a clean picture is certified, and whether it is right."""
        if certified is None or certified.label is None:
            return None, None
        return certified.radius, certified.label == subject.kind

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


def _row(
    defence: Defence, attack: AttackConfig | None, budget: BudgetConfig | None
) -> tuple[str, str, str, str]:
    """The first parts of a cell's key."""
    size = f"{budget.norm}-{budget.epsilon:g}" if budget else f"{_NONE}-0"
    if attack is None:
        return defence.name, _NONE, _NONE, size
    return defence.name, attack.name, attack.knows, size
