"""What the tables cannot show: curves over distance, certificates beneath attacks, samples."""

from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from service.evaluation.robustness.cells import Cell
from service.evaluation.robustness.report import KNOWN, Line
from service.evaluation.robustness.sweep import SampleCell

_STYLES = {"encoder": "-", "defence": "--", "surrogates": ":"}


def plot(
    lines: Sequence[Line], cells: Sequence[Cell], samples: Sequence[SampleCell], folder: Path
) -> list[Path]:
    """Draw all there is to draw into a folder; the files.

    - `curves.png`: class accuracy and targeted success against the distance that was reached
    - `certified.png`: what is certified, beneath what the worst attacks left
    - `samples.png`: class accuracy and seconds against n0, where a config sweeps it
    """
    files = [folder / "curves.png"]
    _draw(files[0], lambda axes: _curves(axes, lines))
    if any(cell.certified_radius is not None for cell in cells):
        files.append(folder / "certified.png")
        _draw(files[-1], lambda axes: _certified(axes, lines, cells))
    if samples:
        files.append(folder / "samples.png")
        _draw(files[-1], lambda axes: _samples(axes, samples))
    return files


def _draw(file: Path, fill: Callable[[Any], None]) -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(13, 5.5))
    fill(axes)
    for ax in axes:
        ax.grid(alpha=0.3)
    figure.tight_layout()
    figure.savefig(file, dpi=100)
    plt.close(figure)


def _curves(axes: Any, lines: Sequence[Line]) -> None:
    """The worst of all goals at each size, for a curve of each goal is too many to read."""
    colours = {name: f"C{i}" for i, name in enumerate(dict.fromkeys(x.defence for x in lines))}
    for name, known in dict.fromkeys(
        (line.defence, line.knows) for line in lines if line.attack != "none"
    ):
        own = [line for line in lines if (line.defence, line.knows) == (name, known)]
        for ax, pick, worst in (axes[0], "accuracy", min), (axes[1], "success", max):
            points = []
            for size in dict.fromkeys((line.norm, line.epsilon) for line in own):
                at = [line for line in own if (line.norm, line.epsilon) == size]
                shares = [getattr(line, pick)["class"][0] for line in at]
                points.append((float(np.mean([line.l2 for line in at])), worst(shares)))
            ax.plot(
                *zip(*sorted(points), strict=True), _STYLES[known], color=colours[name],
                marker="o", ms=3, label=f"{name}, {KNOWN[known]}",
            )  # fmt: skip
    for ax, told in zip(axes, ("least class accuracy", "greatest targeted success"), strict=True):
        ax.set(xscale="log", ylim=(-0.03, 1.03), ylabel=f"{told} over all goals")
        ax.set_xlabel("mean l2 distance of the attacked pictures, RGB in [0, 1]")
    axes[1].legend(fontsize=6, ncol=2)


def _certified(axes: Any, lines: Sequence[Line], cells: Sequence[Cell]) -> None:
    """Attacked above, certified below.

    The certified class is that of votes of single draws, the attacked one that of their mean; FCSB
    is of the pictures that have one. So the curves stand beside each other, and it is the cells
    that say whether a certificate was contradicted.
    """
    defences = dict.fromkeys(cell.defence for cell in cells if cell.certified_radius is not None)
    for colour, name in enumerate(defences):
        own = [line for line in lines if line.defence == name and line.norm in {"l2", "none"}]
        clean = [cell for cell in cells if cell.defence == name and cell.attack == "none"]
        tint = f"C{colour}"
        attacked = _worst(own, lambda line: line.accuracy["class"][0])
        axes[0].plot(*attacked, "o-", color=tint, ms=4, label=f"{name}, attacked")
        reach = sorted(
            cell.certified_radius or 0.0
            for cell in clean
            if cell.certified_right and (cell.certified_radius or 0.0) > 0
        )
        steps = [0.0, *reach]
        shares = [sum(r >= step for r in reach) / len(clean) for step in steps]
        axes[0].step(
            [*steps, steps[-1]], [*shares, 0.0], ":", where="pre", color=tint,
            label=f"{name}, certified",
        )  # fmt: skip
        axes[1].plot(
            *_worst(own, lambda line: line.cosine[0]), "o-", color=tint, ms=4, label=f"{name}, FCS"
        )
        bounds = sorted(
            {(line.epsilon, line.bound) for line in own if line.bounded and line.norm == "l2"}
        )
        if bounds:
            sizes, least = zip(*bounds, strict=True)
            axes[1].plot(sizes, least, "v:", color=tint, ms=4, label=f"{name}, FCSB")
    for ax, told in zip(axes, ("class accuracy", "cosine with the clean feature"), strict=True):
        ax.set_xscale("symlog", linthresh=0.1)
        ax.set(ylim=(-0.03, 1.03), ylabel=told)
        ax.set_xlabel("l2 distance, RGB in [0, 1]; attacked: the worst of all attacks")
        ax.legend(fontsize=6)


def _worst(
    lines: Sequence[Line], figure: Callable[[Line], float]
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Least figure at each size, from what is not attacked on."""
    least: dict[float, float] = {}
    for line in lines:
        least[line.epsilon] = min(figure(line), least.get(line.epsilon, np.inf))
    sizes = tuple(sorted(least))
    return sizes, tuple(least[size] for size in sizes)


def _samples(axes: Any, samples: Sequence[SampleCell]) -> None:
    groups: dict[str, dict[int, list[SampleCell]]] = defaultdict(lambda: defaultdict(list))
    for cell in samples:
        groups[cell.defence][cell.samples].append(cell)
    for name, by_count in groups.items():
        counts = sorted(by_count)
        shares = [float(np.mean([cell.right for cell in by_count[n]])) for n in counts]
        seconds = [float(np.median([cell.seconds for cell in by_count[n]])) for n in counts]
        axes[0].plot(counts, shares, "o-", ms=4, label=name)
        axes[1].plot(counts, seconds, "o-", ms=4, label=name)
    for ax, told in zip(axes, ("clean class accuracy", "median seconds a picture"), strict=True):
        ax.set(xscale="log", ylabel=told, xlabel="answer samples, n0")
        ax.set_xticks(sorted({cell.samples for cell in samples}))
        ax.get_xaxis().set_major_formatter("{x:g}")
        ax.legend(fontsize=7)
    axes[0].set_ylim(-0.03, 1.03)
