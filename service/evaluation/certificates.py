"""A certificate of one picture as the engine would find it, without the engine."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from service.certificate.blocks import measure
from service.certificate.certify import Findings
from service.certificate.evidence import Mark
from service.certificate.sequential import Sequential
from service.certificate.tally import Tally
from service.models.features import served_features
from service.models.lanes import Lanes
from service.models.loaded import LoadedModel
from service.models.sampler import Sampler
from service.types import SamplingPlan, Stage

Floats = NDArray[np.float32]
Watch = Callable[[Stage, Floats, Floats | None], None]  # as `service.attempt.Watch.add`


def certified(
    model: LoadedModel,
    image: NDArray[np.uint8],
    plan: SamplingPlan,
    seed: bytes,
    lanes: Lanes | None = None,
    sampler: Sampler | None = None,
    watches: tuple[Watch, ...] = (),
) -> tuple[Floats, Findings]:
    """The embedding [d] of an image and what its samples prove.

    Args:
        model: the served function.
        image: x, uint8 [3, H, W].
        plan: of the sampling.
        seed: of the noise.
        lanes: to compute in; None: here.
        sampler: of the model; None: a new one.
        watches: shown every feature, too.
    """
    estimation = plan.estimation
    tally = Tally(model.pipeline.dimensions, plan.selection, estimation, plan.checkpoints)
    sequential = Sequential(plan, tally)
    for stage, count in (
        (Stage.CLEAN, model.clean_samples),
        (Stage.SELECT, plan.selection),
        (Stage.ESTIMATE, estimation),
    ):
        features = served_features(model, image, plan.noise, seed, stage, count, lanes, sampler)
        for watch in watches:
            watch(stage, features, tally.embedding if stage is Stage.ESTIMATE else None)
        for event in tally.add(stage, features):
            if not isinstance(event, Mark):
                tally.absorb(measure(event))
                sequential.pass_block(event)
            elif (verdict := sequential.look(event)) is not None:
                return tally.embedding, verdict.findings
    raise RuntimeError("the last sample of a tally is a checkpoint")
