"""The curve of a run: loss and validation scores against steps."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

_SCORES = {"cos": "mean cosine to the clean feature", "right": "share of right answers"}


def plot(history: Sequence[dict[str, Any]], file: Path) -> None:
    """Draw a run's history, a record every validation, as a PNG."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    steps = [record["step"] for record in history]
    figure, (above, below) = plt.subplots(2, 1, sharex=True, figsize=(7, 6))
    above.plot(steps, [record["loss"] for record in history], color="black")
    above.set_ylabel("training loss")
    told = ""
    for name in history[0]:
        score, _, at = name.partition("@")
        if score in _SCORES:
            told = _SCORES[score]
            label = f"σ = {at}" if at.replace(".", "").isdigit() else at
            below.plot(steps, [record[name] for record in history], label=label)
    below.set_xlabel("steps")
    below.set_ylabel(f"validation: {told}")
    below.legend()
    for axes in (above, below):
        axes.grid(alpha=0.3)
    figure.tight_layout()
    figure.savefig(file, dpi=120)
    plt.close(figure)
