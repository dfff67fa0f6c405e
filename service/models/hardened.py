"""Other weights for an encoder, fine-tuned to withstand attacks (docs/robustness.md).

Ours, of `fcs train fare|tecoa`, say what they were trained from. Published ones, CLIP encoders in
the layout of open_clip, do not: they fit every CLIP tower of their shape.
"""

import copy
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional

from service.errors import ConfigurationError
from service.models import open_clip
from service.models.distributions import sha256
from service.models.encoder import Encoder
from service.models.hub import download, is_hub_id
from service.models.psm import read_part

ENCODER_FILE = "encoder.safetensors"
_PREFIX = "encoder."
_POSITIONS = "embeddings.position_embedding.weight"
_PROJECTION = "visual_projection.weight"


def weights_file(named: Path) -> Path:
    """The file of fine-tuned weights: itself, that in the folder of its run, or a published one's.

    Args:
        named: file, folder of a run, or folder or hub id of a checkpoint of open_clip.

    Raises:
        ConfigurationError: there is none.
    """
    if is_hub_id(str(named)):
        named = download(str(named), None)[0]
    if open_clip.is_open_clip(named):
        file = named / open_clip.WEIGHTS
    else:
        file = named / ENCODER_FILE if named.is_dir() else named
    if not file.is_file():
        raise ConfigurationError(f"no fine-tuned encoder: {file}")
    return file


def weights_digest(named: Path) -> str:
    """Of fine-tuned weights, and of what describes them where that is a file beside them.

    Raises:
        ConfigurationError: there are none.
    """
    file = weights_file(named)
    if file.name != open_clip.WEIGHTS:
        return sha256(file)
    return sha256(file) + sha256(file.parent / open_clip.CONFIG)


def harden(encoder: Encoder, named: Path, digest: str) -> Encoder:
    """A copy of an encoder, or of what holds one, with fine-tuned weights.

    Args:
        encoder: the original, or the eyes of a language model that has it inside.
        named: as for `weights_file`.
        digest: of the original's weights.

    Raises:
        ConfigurationError: unreadable, or weights of another encoder.
    """
    file = weights_file(named)
    if file.name == open_clip.WEIGHTS:
        return _published(encoder, file.parent)
    part = read_part(file)
    if part.kind != "encoder":
        raise ConfigurationError(f"{file} holds a {part.kind}, an encoder was expected")
    if part.encoder != digest:
        raise ConfigurationError(
            f"{file} was trained from an encoder with digest {part.encoder}, this one has {digest}"
        )
    try:
        weights = load_file(file)
    except (OSError, SafetensorError) as error:
        raise ConfigurationError(f"cannot read {file}: {error}") from error
    made = copy.deepcopy(encoder)
    named_weights = {name.removeprefix(_PREFIX): value for name, value in weights.items()}
    for inside in made.modules():
        if isinstance(inside, Encoder) and _has(inside, named_weights):
            inside.load_state_dict(named_weights, strict=False)
            return made
    raise ConfigurationError(f"{file} has no weights for this encoder")


def _published(encoder: Encoder, folder: Path) -> Encoder:
    """With the vision tower of a CLIP checkpoint in place of its own."""
    weights = open_clip.vision_weights(folder)
    projection = weights.pop(_PROJECTION)
    made = copy.deepcopy(encoder)
    tower = next((module for module in made.modules() if _has(module, weights)), None)
    if tower is None:
        raise ConfigurationError(
            f"{folder} is a CLIP encoder, and this model has none of its depth"
        )
    own = dict(tower.named_parameters())
    _same_function(folder, getattr(tower, "config", None))
    weights[_POSITIONS] = _resampled(weights[_POSITIONS], len(own[_POSITIONS]))
    parts = [(own, weights)]
    for module in made.modules():  # of what projects the tower's feature; a language has no use
        if _PROJECTION in (beside := dict(module.named_parameters())):
            parts.append((beside, {_PROJECTION: projection}))
            break
    for mine, theirs in parts:
        for name, value in theirs.items():
            if mine[name].shape != value.shape:
                raise ConfigurationError(
                    f"{folder}: {name} is {tuple(value.shape)}, this model's is"
                    f" {tuple(mine[name].shape)}"
                )
            with torch.no_grad():
                mine[name].copy_(value)
    return made


def _same_function(folder: Path, config: Any) -> None:
    """Refuse weights that were trained in a tower of the same shapes and another function."""
    for name, theirs in open_clip.vision_function(folder).items():
        ours = getattr(config, name, theirs)
        if ours != theirs:
            raise ConfigurationError(f"{folder}: {name} is {theirs}, this model's is {ours}")


def _has(module: nn.Module, weights: Mapping[str, Tensor]) -> bool:
    return {name for name, _ in module.named_parameters()} == set(weights)


def _resampled(positions: Tensor, wanted: int) -> Tensor:
    """Position embeddings [1 + n * n, D] for another resolution, bicubically; as they are for one.

    As is usual where a vision transformer is used at another resolution than it was trained at
    (Dosovitskiy et al. 2020, arXiv:2010.11929, section 3.2).
    """
    if len(positions) == wanted:
        return positions
    side, target = (math.isqrt(count - 1) for count in (len(positions), wanted))
    if (side**2, target**2) != (len(positions) - 1, wanted - 1):
        raise ConfigurationError(
            f"positions of {len(positions)} tokens cannot be resampled to {wanted}: they are one"
            " and a square"
        )
    grid = positions[1:].float().T.reshape(1, -1, side, side)
    moved = functional.interpolate(grid, (target, target), mode="bicubic", align_corners=False)
    return torch.cat([positions[:1].float(), moved.flatten(2)[0].T])
