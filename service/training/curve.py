"""The curve of a run: loss and validation scores against steps."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any


def plot(history: Sequence[dict[str, Any]], file: Path) -> None:
    """Draw a run's history, a record every validation, as a PNG."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    steps = [record["step"] for record in history]
    figure, (above, below) = plt.subplots(2, 1, sharex=True, figsize=(7, 6))
    above.plot(steps, [record["loss"] for record in history], color="black")
    above.set_ylabel("training loss")
    for name in history[0]:
        if name.startswith("cos@"):
            below.plot(steps, [record[name] for record in history], label=f"σ = {name[4:]}")
    below.set_xlabel("steps")
    below.set_ylabel("validation: mean cosine to the clean feature")
    below.legend()
    for axes in (above, below):
        axes.grid(alpha=0.3)
    figure.tight_layout()
    figure.savefig(file, dpi=120)
    plt.close(figure)
