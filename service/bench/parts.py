"""What one sample is made of: noise, purifier, encoder, mapper, normalisation, in one lane."""

import statistics
import time
from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from service.models.lanes import Lanes
from service.models.loaded import LoadedModel
from service.models.noise import SEED_BYTES, add_noise
from service.models.pipeline import unit
from service.types import NoiseLevel, Stage

PARTS = ("noise", "purify", "encode", "map", "unit")
_WARM_UP = 2
_SEED = bytes(SEED_BYTES)


def parts_ms(model: LoadedModel, picture: NDArray[np.uint8], rounds: int) -> dict[str, float]:
    """Milliseconds a sample of each part in the model's batch shape, medians.

    `times_encoder` is the whole over a sample without purifier and mapper.

    Args:
        model: a lane's thread runs it alone.
        picture: uint8 [3, H, W].
        rounds: measurements.
    """
    lanes = Lanes(1, model.threads)
    try:
        found = lanes.run(lambda _first, _end: _measure(model, picture, rounds), 1, 1)[0]
    finally:
        lanes.close()
    plain = found["noise"] + found["encode"] + found["unit"]
    return {**found, "times_encoder": sum(found.values()) / plain}


@torch.inference_mode()
def _measure(model: LoadedModel, picture: NDArray[np.uint8], rounds: int) -> dict[str, float]:
    size, noise, pipeline = model.batch_size, NoiseLevel(model.sigmas[0]), model.pipeline
    told = torch.full((size,), noise.sigma, device=pipeline.device)
    times: dict[str, list[float]] = {part: [] for part in PARTS}

    def timed(part: str, work: Callable[[], Tensor]) -> Tensor:
        began = time.perf_counter()
        made = work()
        if pipeline.device.type == "cuda":
            torch.cuda.synchronize(pipeline.device)
        times[part].append(1000 * (time.perf_counter() - began) / size)
        return made

    def draw() -> Tensor:
        rows = [add_noise(picture, noise, _SEED, Stage.SELECT, row) for row in range(size)]
        return torch.from_numpy(np.stack(rows)).to(pipeline.device)

    for _ in range(_WARM_UP + rounds):
        levels = timed("noise", draw)
        levels = timed("purify", partial(pipeline.purify, levels, told))
        features = timed("encode", partial(pipeline.encode, levels))
        features = timed("map", partial(pipeline.map, features, told))
        timed("unit", partial(unit, features))
    return {part: statistics.median(found[_WARM_UP:]) for part, found in times.items()}
