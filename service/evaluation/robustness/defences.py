"""The rows of the table: what is served, and what an attacker of it differentiates."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from service.errors import ConfigurationError
from service.evaluation.attacks.seen import Seen, bare, differentiable
from service.evaluation.robustness.config import DefenceConfig
from service.evaluation.showing import Shown, shown_of
from service.evaluation.stability.variants import variants
from service.models.answerer.answerer import Answerer
from service.models.features import served_samples
from service.models.hardened import harden
from service.models.loaded import LoadedModel
from service.models.pipeline import Parts, Pipeline
from service.models.sampler import Sampler, make_sampler
from service.types import NoiseLevel, Stage


@dataclass(frozen=True, slots=True)
class Defence:
    """One row.

    Attributes:
        name: as tables have it.
        encoder: name of its fine-tuned weights; empty of the original.
        model: what is served; without noise, the bare encoder.
        sigma: of its noise; 0: none.
        samples: draws whose mean is shown.
    """

    name: str
    encoder: str
    model: LoadedModel
    answerer: Answerer
    sampler: Sampler
    sigma: float
    samples: int

    def show(self, x: NDArray[np.uint8], seed: bytes) -> Shown:
        """As the service does, from draws of this seed."""
        return shown_of(
            self.model, self.answerer, x, self.sigma, self.samples, seed, sampler=self.sampler
        )

    def draw(
        self, x: NDArray[np.uint8], seed: bytes, stage: Stage, count: int
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Noisy unit features [count, d] and the norms they had."""
        noise = NoiseLevel(self.sigma)
        return served_samples(self.model, x, noise, seed, stage, count, sampler=self.sampler)

    def seen(self, draws: int, seed: int) -> Seen:
        """What an adaptive attacker differentiates: all of it."""
        generator = torch.Generator().manual_seed(seed)
        return Seen(differentiable(self.model.pipeline), self.sigma, draws, generator)


def defences(
    model: LoadedModel,
    digest: str,
    rows: Sequence[DefenceConfig],
    encoders: Mapping[str, Path],
    sigma: float,
    samples: int,
) -> tuple[Defence, ...]:
    """The rows of a table.

    Args:
        model: that answers.
        digest: of its encoder's weights.
        rows: wanted.
        encoders: files of fine-tuned weights, by name.
        sigma: of those with noise.
        samples: draws that they show the mean of.

    Raises:
        ConfigurationError: no language, a part that the model lacks, or weights of another encoder.
    """
    if (answerer := model.answerer) is None:
        raise ConfigurationError(f"{model.name} has no language to answer in")
    if sigma not in model.sigmas:
        raise ConfigurationError(f"{model.name} has no noise level {sigma:g}")
    found: dict[str, dict[str, LoadedModel]] = {}
    made = []
    for row in rows:
        encoder = row.encoder or ""
        if encoder not in found:
            found[encoder] = _around(model, encoders[encoder] if encoder else None, digest)
        if row.smoothing not in found[encoder]:
            raise ConfigurationError(
                f"{model.name} has no {row.smoothing}; it has {', '.join(found[encoder])}"
            )
        served, noisy = found[encoder][row.smoothing], row.smoothing != "none"
        made.append(
            Defence(
                row.name,
                encoder,
                served,
                answerer,
                make_sampler(served),
                sigma if noisy else 0.0,
                samples if noisy else 1,
            )
        )
    return tuple(made)


def _around(model: LoadedModel, file: Path | None, digest: str) -> dict[str, LoadedModel]:
    """By what stands around it, the model with its own encoder or with other weights of it."""
    if file is not None:
        whole = model.pipeline
        encoder = harden(whole.encoder, file, digest)
        parts = Parts(encoder, whole.purifier, whole.mapper)
        how = model.preprocessing, whole.device, whole.dtype, whole.memory_format
        model = replace(model, pipeline=Pipeline(parts, *how))
    rows = dict(variants(model))
    return {"none": rows["FS"], **rows}


def plain(defence: Defence) -> Seen:
    """What an attacker who knows a row's encoder alone differentiates."""
    return Seen(differentiable(bare(defence.model)))
