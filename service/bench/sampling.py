"""Features of one picture, as the engine would compute them, for benches of certificates."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from service.certificate.blocks import Block, measure
from service.certificate.evidence import Evidence, Mark
from service.certificate.tally import Tally
from service.config import Settings
from service.models.features import served_features
from service.models.lanes import Lanes
from service.models.loaded import LoadedModel
from service.models.noise import SEED_BYTES
from service.pictures.files import read_picture
from service.types import NoiseLevel, Stage

_CHUNK = 16


@dataclass(frozen=True, slots=True)
class Features:
    """Unit features, float32: clean [1, d], selection [n0, d], estimation [n, d]."""

    clean: NDArray[np.float32]
    selection: NDArray[np.float32]
    estimation: NDArray[np.float32]

    def fill(self, tally: Tally) -> Iterator[Block | Mark]:
        """Add all of them to a tally; its blocks and marks as they come."""
        tally.add(Stage.CLEAN, self.clean)
        tally.add(Stage.SELECT, self.selection)
        for start in range(0, len(self.estimation), _CHUNK):
            yield from tally.add(Stage.ESTIMATE, self.estimation[start : start + _CHUNK])


def evidence_of(features: Features) -> Evidence:
    """The evidence of all of them, in one look at the end."""
    tally = Tally(features.clean.shape[1], len(features.selection), len(features.estimation))
    for event in features.fill(tally):
        if isinstance(event, Mark):
            return tally.evidence(event)
        tally.absorb(measure(event))
    raise RuntimeError("the last sample of a tally is a checkpoint")


def sample(
    model: LoadedModel,
    lanes: Lanes,
    picture: Path,
    settings: Settings,
    sigma: float,
    selection: int,
    estimation: int,
) -> Features:
    """Draw the features of one picture under a fresh seed."""
    x = read_picture(picture, model.preprocessing, settings.max_pixels)
    noise, seed = NoiseLevel(sigma), os.urandom(SEED_BYTES)

    def draw(stage: Stage, count: int) -> NDArray[np.float32]:
        return served_features(model, x, noise, seed, stage, count, lanes)

    return Features(
        draw(Stage.CLEAN, 1), draw(Stage.SELECT, selection), draw(Stage.ESTIMATE, estimation)
    )
