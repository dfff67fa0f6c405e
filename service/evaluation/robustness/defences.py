"""The rows of the table: what is served, and what an attacker of it differentiates."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from service.errors import ConfigurationError
from service.evaluation.attacks.seen import Seen, bare, differentiable
from service.evaluation.robustness.config import DefenceConfig
from service.evaluation.showing import Feature, feature_of
from service.evaluation.stability.variants import variants
from service.models.features import served_samples
from service.models.hardened import harden
from service.models.loaded import LoadedModel
from service.models.package_parts import check_mapper
from service.models.packages import Manifest
from service.models.pipeline import Parts
from service.models.psm import Expected, check, load_mapper
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
    sampler: Sampler
    sigma: float
    samples: int

    def show(self, x: NDArray[np.uint8], seed: bytes) -> Feature:
        """As the service does, from draws of this seed."""
        return feature_of(self.model, x, self.sigma, self.samples, seed, sampler=self.sampler)

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
    manifest: Manifest,
    rows: Sequence[DefenceConfig],
    encoders: Mapping[str, Path],
    mappers: Mapping[str, Path],
    sigma: float,
    samples: int,
) -> tuple[Defence, ...]:
    """The rows of a table.

    Args:
        model: of the table.
        manifest: of its package.
        rows: wanted.
        encoders: files of fine-tuned weights, by name.
        mappers: files, by the smoothing they are for.
        sigma: of those with noise.
        samples: draws that they show the mean of.

    Raises:
        ConfigurationError: a part that the model lacks, or weights of another encoder.
    """
    if sigma not in model.sigmas:
        raise ConfigurationError(f"{model.name} has no noise level {sigma:g}")
    found: dict[str, dict[str, LoadedModel]] = {}
    made = []
    for row in rows:
        encoder = row.encoder or ""
        if encoder not in found:
            file = encoders[encoder] if encoder else None
            of_this = _with(model, file, manifest.encoder.sha256)
            found[encoder] = _around(of_this, mappers, manifest, sigma)
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
                make_sampler(served),
                sigma if noisy else 0.0,
                samples if noisy else 1,
            )
        )
    return tuple(made)


def _with(model: LoadedModel, file: Path | None, digest: str) -> LoadedModel:
    """The model with its own encoder, or with other weights of it."""
    if file is None:
        return model
    whole = model.pipeline
    return model.around(Parts(harden(whole.encoder, file, digest), whole.purifier, whole.mapper))


def _around(
    model: LoadedModel, mappers: Mapping[str, Path], manifest: Manifest, sigma: float
) -> dict[str, LoadedModel]:
    """By what stands around its encoder, the model."""
    rows = dict(variants(model))
    rows["none"] = rows["FS"]
    whole = model.pipeline
    for smoothing, file in mappers.items():
        purifier = whole.purifier if smoothing == "FS+PSM" else None
        if smoothing == "FS+PSM" and purifier is None:
            raise ConfigurationError(f"{model.name} has no purifier for {smoothing}")
        mapper, part = load_mapper(file)
        behind = None if purifier is None else model.psm["purifier"]
        check_mapper(file, mapper, part, whole.encoder, manifest, behind)
        check(file, part, Expected(manifest.encoder.sha256, (sigma,), model.preprocessing))
        rows[smoothing] = model.around(Parts(whole.encoder, purifier, mapper))
    return rows


def surrogate(model: LoadedModel) -> Seen:
    """What a black-box attacker differentiates in place of the model: another's encoder."""
    return Seen(differentiable(bare(model)), size=model.preprocessing.size)


def plain(defence: Defence) -> Seen:
    """What an attacker who knows a row's encoder alone differentiates."""
    return Seen(differentiable(bare(defence.model)))
