"""Features of one picture, as the engine would compute them, for benches of certificates."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from service.certificate.blocks import Block
from service.certificate.evidence import Mark
from service.certificate.tally import Tally
from service.config import Settings
from service.models.lanes import Lanes
from service.models.noise import SEED_BYTES, add_noise
from service.models.store import LoadedModel
from service.pictures.decode import decode
from service.pictures.preprocess import preprocess
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
    image = decode(picture.read_bytes(), settings.max_pixels, str(picture))
    x = preprocess(image, model.preprocessing)
    noise, seed, size = NoiseLevel(sigma), os.urandom(SEED_BYTES), model.batch_size

    def draw(stage: Stage, count: int) -> NDArray[np.float32]:
        def call(first: int, end: int) -> NDArray[np.float32]:
            levels = np.zeros((size, *x.shape), np.float32)
            for row in range(end - first):
                levels[row] = add_noise(x, noise, seed, stage, first + row)
            features: NDArray[np.float32] = model.pipeline(torch.from_numpy(levels)).cpu().numpy()
            return features[: end - first]

        return np.concatenate(lanes.run(call, count, size))

    return Features(
        draw(Stage.CLEAN, 1), draw(Stage.SELECT, selection), draw(Stage.ESTIMATE, estimation)
    )
