"""The figures of docs/certificate.md: what the certificate gives on real pictures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from rich.console import Console
from rich.progress import track
from threadpoolctl import threadpool_limits

from service.bench.sampling import Features, sample
from service.certificate.blocks import measure
from service.certificate.bounds import paper_bound
from service.certificate.certify import cone_of
from service.certificate.evidence import Evidence, Mark
from service.certificate.intervals import betting_lower
from service.certificate.sequential import Sequential
from service.certificate.stopping import checkpoints
from service.certificate.tally import Tally
from service.config import Settings
from service.models.lanes import Lanes
from service.models.store import load_model
from service.types import NoiseLevel, SamplingPlan, Target

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_SIGMA, _SELECTION, _SAMPLES = 0.25, 100, 1000
_SHIFTS = (0.5, 1.0)
_TARGETS = (0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.93, 0.95, 0.97)
_COUNTS = (48, 64, 96, 128, 192, 256, 384, 512, 768, 1000)


def run(settings: Settings, pictures: Sequence[Path], folder: Path) -> None:
    """Sample every picture once and write `bound.png`, `samples.png` and `targets.png`."""
    threadpool_limits(limits=1, user_api="blas")
    model = load_model(settings.model, settings)
    lanes = Lanes(model.lanes, model.threads)
    alpha = 1 - settings.default_confidence
    drawn = {
        path.stem: sample(model, lanes, path, settings, _SIGMA, _SELECTION, _SAMPLES)
        for path in track(pictures, "sampling", console=Console(stderr=True))
    }
    lanes.close()
    folder.mkdir(parents=True, exist_ok=True)
    marks = {name: _evidence(features) for name, features in drawn.items()}
    _bound_figure({name: found[-1] for name, found in marks.items()}, alpha, folder)
    _samples_figure(marks, alpha, folder)
    _targets_figure(drawn, 1 - alpha, folder)


def _evidence(features: Features) -> list[Evidence]:
    """At each of `_COUNTS` samples."""
    tally = Tally(features.clean.shape[1], _SELECTION, _SAMPLES, _COUNTS)
    found = []
    for event in features.fill(tally):
        if isinstance(event, Mark):
            found.append(tally.evidence(event))
        else:
            tally.absorb(measure(event))
    return found


def _bound_figure(evidence: dict[str, Evidence], alpha: float, folder: Path) -> None:
    figure, axes = _figure()
    shifts = np.linspace(0, 2.6, 40)
    for name, found in evidence.items():
        cone = cone_of(found, alpha)
        score = betting_lower((1 + found.reference_cosines) / 2, alpha)
        bounds = [max(cone.bound(shift)[0], 0) for shift in shifts]
        (line,) = axes.plot(shifts, bounds, label=name)
        paper = [max(paper_bound(score, shift), 0) for shift in shifts]
        axes.plot(shifts, paper, ":", color=line.get_color())
    axes.set(
        xlabel="epsilon / sigma",
        ylabel="certified cosine",
        title=f"ours about F(x) (solid), the paper's about f(x) (dotted); {_SAMPLES} samples",
    )
    _save(figure, axes, folder / "bound.png")


def _samples_figure(evidence: dict[str, list[Evidence]], alpha: float, folder: Path) -> None:
    figure, axes = _figure()
    for name, found in evidence.items():
        colour = None
        for shift, style in zip(_SHIFTS, ("-", "--"), strict=True):
            bounds = [max(cone_of(e, alpha).bound(shift)[0], 0) for e in found]
            label = name if colour is None else None
            (line,) = axes.plot(_COUNTS, bounds, style, color=colour, label=label)
            colour = line.get_color()
    axes.set(
        xscale="log",
        xlabel="estimation samples, fixed in advance",
        ylabel="certified cosine",
        title="epsilon/sigma = 0.5 (solid) and 1 (dashed)",
    )
    _save(figure, axes, folder / "samples.png")


def _targets_figure(drawn: dict[str, Features], confidence: float, folder: Path) -> None:
    figure, axes = _figure()
    for name, features in drawn.items():
        colour = None
        for shift, style in zip(_SHIFTS, ("o-", "s--"), strict=True):
            needed = [_needed(features, shift, bound, confidence) for bound in _TARGETS]
            reached = [(b, n) for b, n in zip(_TARGETS, needed, strict=True) if n is not None]
            label = name if colour is None else None
            (line,) = axes.plot(*zip(*reached, strict=True), style, color=colour, label=label)
            colour = line.get_color()
    axes.set(
        yscale="log",
        xlabel="target: cosine to certify",
        ylabel="estimation samples drawn",
        title=f"epsilon/sigma = 0.5 (solid) and 1 (dashed); at most {_SAMPLES}",
    )
    _save(figure, axes, folder / "targets.png")


def _needed(features: Features, shift: float, bound: float, confidence: float) -> int | None:
    plan = SamplingPlan(
        noise=NoiseLevel(_SIGMA),
        radii=(shift * _SIGMA,),
        selection=_SELECTION,
        estimation=_SAMPLES,
        confidence=confidence,
        certify=True,
        priority=0,
        target=Target(shift * _SIGMA, bound),
        checkpoints=checkpoints(_SAMPLES),
    )
    tally = Tally(features.clean.shape[1], _SELECTION, _SAMPLES, plan.checkpoints)
    sequential = Sequential(plan, tally)
    for event in features.fill(tally):
        if not isinstance(event, Mark):
            tally.absorb(measure(event))
            sequential.pass_block(event)
        elif (verdict := sequential.look(event)) is not None:
            return verdict.findings.samples if verdict.stopped == "target" else None
    return None


def _figure() -> tuple[Figure, Axes]:
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    return plt.subplots(figsize=(6.4, 3.8), layout="constrained")


def _save(figure: Figure, axes: Axes, path: Path) -> None:
    from matplotlib import pyplot as plt

    axes.title.set_fontsize(10)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    figure.savefig(path, dpi=100)
    plt.close(figure)
