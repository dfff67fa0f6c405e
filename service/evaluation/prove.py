"""Adaptive attacks on real certificates, and a binomial verdict over all of them: `fcs prove`."""

import json
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn
from rich.table import Table
from scipy.stats import binom
from threadpoolctl import threadpool_limits

from service.config import Settings
from service.evaluation.pgd import Twin
from service.evaluation.trials import Case, Trial, TrialPlan, run_trial
from service.models.lanes import Lanes
from service.models.loaded import LoadedModel
from service.models.store import load_model
from service.pictures.files import read_picture

FALSE_ALARM = 1e-6
_COLUMNS = ("bound", "attacked", "upper", "random", "clean", "bare")


@dataclass(frozen=True, slots=True)
class Result:
    """The verdict over all trials.

    Attributes:
        trials: attacked certificates; `certified` of them promised anything.
        violations: certificates above the upper confidence bound of their attacked cosine.
        allowed: more violations than this happen to sound certificates with probability 1e-6.
        worst_margin: smallest estimated cosine minus bound, of those certified.
        worst_upper_margin: smallest upper confidence bound minus bound; a violation is below 0.
    """

    trials: int
    certified: int
    violations: int
    allowed: int
    worst_margin: float | None
    worst_upper_margin: float | None

    @property
    def failed(self) -> bool:
        """Beyond chance."""
        return self.violations > self.allowed


def judge(trials: Sequence[Trial], plan: TrialPlan) -> Result:
    """Count violations against chance: each is at most alpha + verdict_alpha likely."""
    rate = plan.alpha + plan.verdict_alpha
    promised = [trial for trial in trials if trial.bound > -1]
    return Result(
        trials=len(trials),
        certified=len(promised),
        violations=sum(trial.violated for trial in trials),
        allowed=int(binom.isf(FALSE_ALARM, len(trials), rate)),
        worst_margin=min((trial.margin for trial in promised), default=None),
        worst_upper_margin=min((t.upper - t.bound for t in promised), default=None),
    )


def run(
    settings: Settings,
    pictures: Sequence[Path],
    sigmas: Sequence[float],
    shifts: Sequence[float],
    repeats: int,
    plan: TrialPlan,
) -> Result:
    """Attack `repeats` certificates of every picture, noise level and shift; print the verdict."""
    threadpool_limits(limits=1, user_api="blas")
    began = time.perf_counter()
    model = load_model(settings.model, settings)
    images = [read_picture(path, model.preprocessing, settings.max_pixels) for path in pictures]
    # Pictures vary fastest: an interrupted run has seen all noise levels and shifts of the first.
    grid = product(range(repeats), sigmas, shifts, images)
    cases = [Case(x, sigma, shift, seed) for seed, (_, sigma, shift, x) in enumerate(grid)]
    trials = attack_all(model, cases, plan)
    result = judge(trials, plan)
    _print(model.name, trials, result, time.perf_counter() - began)
    return result


def attack_all(model: LoadedModel, cases: Sequence[Case], plan: TrialPlan) -> list[Trial]:
    """Every trial, a lane each; the results do not depend on how many lanes there are."""
    twin = Twin(model.pipeline)
    lanes = Lanes(model.lanes, model.threads)
    columns = (BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress("attacking", *columns, console=Console(stderr=True)) as progress:
        task = progress.add_task("", total=len(cases))

        def one(index: int, _: int) -> Trial:
            trial = run_trial(model, twin, cases[index], plan)
            progress.advance(task)
            return trial

        try:
            return lanes.run(one, len(cases), 1)
        finally:
            lanes.close()


def _print(name: str, trials: Sequence[Trial], result: Result, seconds: float) -> None:
    title = f"{name}: {result.trials} attacked certificates; medians and worst margin"
    table = Table("sigma", "shift", "trials", *_COLUMNS, "worst", title=title)
    table.box, table.padding = None, (0, 1, 0, 0)
    rows = []
    for sigma, shift in sorted({(trial.sigma, trial.shift) for trial in trials}):
        group = [t for t in trials if (t.sigma, t.shift) == (sigma, shift)]
        medians = {c: statistics.median(getattr(t, c) for t in group) for c in _COLUMNS}
        worst = min((t.margin for t in group if t.bound > -1), default=None)
        rows.append({"sigma": sigma, "shift": shift, **medians, "worst": worst})
        figures = ("-" if value == -1 else f"{value:.4f}" for value in medians.values())
        table.add_row(
            f"{sigma:g}",
            f"{shift:g}",
            str(len(group)),
            *figures,
            "-" if worst is None else f"{worst:+.4f}",
        )
    console = Console()
    console.print(table)
    margin = "-" if result.worst_margin is None else f"{result.worst_margin:+.4f}"
    console.print(
        f"{result.trials} trials ({result.certified} with a bound), worst margin"
        f" {margin}, {result.violations} violations (at most {result.allowed})",
        highlight=False,
    )
    summary = {"prove": "attacks", "model": name, **asdict(result), "seconds": round(seconds)}
    sys.stdout.write(json.dumps({**summary, "rows": rows}) + "\n")
