"""How many samples an answer takes: clean pictures shown at several n0, a JSON line each."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from service.evaluation.robustness.cells import append_line, read_lines

SAMPLES = "samples.jsonl"


@dataclass(frozen=True, slots=True)
class SampleCell:
    """One clean picture shown as the mean of so many samples.

    Attributes:
        right: its class is.
        seconds: to show it and choose the class.
    """

    defence: str
    samples: int
    picture: str
    right: bool
    seconds: float

    @property
    def key(self) -> tuple[str, int, str]:
        """What it is of."""
        return self.defence, self.samples, self.picture


def read_samples(folder: Path) -> list[SampleCell]:
    """All that a run has; a line that was cut off by a kill is left out."""
    return read_lines(folder / SAMPLES, SampleCell)


def append_sample(folder: Path, cell: SampleCell) -> None:
    """Write one more; several processes may."""
    append_line(folder / SAMPLES, json.dumps(asdict(cell)))
