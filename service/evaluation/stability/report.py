"""The report as a table and as a plot."""

from collections.abc import Callable
from pathlib import Path

from rich.console import Console
from rich.table import Table

from service.evaluation.stability.run import Report, Row


def show(report: Report) -> None:
    """Print the table on standard output."""
    certified = min(report.effort.certified, report.pictures)
    told = f"{report.pictures} pictures, {certified} of them certified"
    table = Table(title=f"{report.model}, {told}")
    epsilons = [f"{e:g}" for e in report.effort.epsilons]
    for heading in (
        "σ", "", "cos", "fidelity: f / encoder", "different", "1-NN", "retrieval", "score",
        f"bound at {' / '.join(epsilons)}", "certified retrieval", "label", "certified label", "ms",
    ):  # fmt: skip
        table.add_column(heading)
    sigma = None
    for row in report.rows:
        if sigma is not None and row.sigma != sigma:
            table.add_section()
        sigma = row.sigma
        table.add_row(*_cells(row))
    Console(width=200).print(table)


def plot(report: Report, file: Path) -> None:
    """Draw cosine, retrieval and the bound against sigma, a line for each variant."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    shown: tuple[tuple[str, Callable[[Row], float]], ...] = (
        ("mean cosine to the clean feature", lambda row: row.cosine),
        ("self-retrieval", lambda row: row.retrieval),
        (
            f"certified cosine at ε = {report.effort.epsilons[-1]:g}",
            lambda row: row.bounds[-1] if row.bounds else float("nan"),
        ),
    )
    figure, axes = plt.subplots(1, len(shown), figsize=(4 * len(shown), 3.6))
    names = list(dict.fromkeys(row.variant for row in report.rows if row.sigma))
    for axis, (title, value) in zip(axes, shown, strict=True):
        for name in names:
            rows = [row for row in report.rows if row.variant == name]
            axis.plot([row.sigma for row in rows], [value(row) for row in rows], "o-", label=name)
        axis.set_xlabel("σ")
        axis.set_title(title, fontsize=10)
        axis.grid(alpha=0.3)
    axes[0].legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(file, dpi=120)
    plt.close(figure)


def _cells(row: Row) -> list[str]:
    return [
        f"{row.sigma:g}" if row.sigma else "",
        row.variant,
        f"{row.cosine:.3f}",
        f"{row.fidelity_pipeline:.3f} / {row.fidelity_encoder:.3f}",
        f"{row.different:.3f}",
        _number(row.neighbour),
        f"{row.retrieval:.3f}",
        _number(row.score),
        _numbers(row.bounds),
        _numbers(row.certified_retrieval),
        _number(row.label),
        _numbers(row.certified_label),
        "" if row.ms_per_sample is None else f"{row.ms_per_sample:.2f}",
    ]


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def _numbers(values: tuple[float, ...]) -> str:
    return " / ".join(f"{value:.2f}" for value in values)
