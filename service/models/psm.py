"""Files of trained parts: weights, and what they were trained for, in one.

    <name>.safetensors
        tensors    of the module
        metadata   `part`: a JSON object, see `Part`

A part serves the encoder and the sigmas it was trained for and no others.
"""

import os
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from service.errors import ConfigurationError
from service.models.mapper import Mapper, MapperConfig
from service.models.purifier import Purifier
from service.models.unet import UNet, UNetConfig
from service.types import Preprocessing

Kind = Literal["unet", "mapper", "projector", "encoder"]


class Part(BaseModel):
    """What a file says of itself.

    Attributes:
        kind: which module; of an encoder, other weights for the same one.
        config: its shape.
        encoder: digest of the encoder's weights.
        purifier: digest of the purifier's file, of what was trained behind one.
        language: digest of the chat model, of a projector to one.
        projector: digest of the projector's file, of a mapper of the token maps it makes.
        sigmas: noise levels it was trained for, RGB in [0, 1].
        size: (H, W) of the pictures.
        mean, std: by which the encoder normalises them; None in the first files of this program.
        training: how it came about: seed, steps, data, losses, scores.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Kind
    config: dict[str, Any]
    encoder: str
    purifier: str | None = None
    language: str | None = None
    projector: str | None = None
    sigmas: tuple[float, ...]
    size: tuple[int, int]
    mean: tuple[float, float, float] | None = None
    std: tuple[float, float, float] | None = None
    training: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Expected:
    """What a model needs of its parts."""

    encoder: str
    sigmas: tuple[float, ...]
    pixels: Preprocessing
    transferred: bool = False


def write_part(file: Path, part: Part, tensors: Mapping[str, Tensor]) -> None:
    """Write a file at once or not at all."""
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_suffix(f".{os.getpid()}.partial")
    whole = {name: value.detach().cpu().float().contiguous() for name, value in tensors.items()}
    save_file(whole, partial, {"part": part.model_dump_json()})
    with partial.open("rb") as written:
        os.fsync(written.fileno())
    partial.chmod(0o644)  # who trains need not be who serves
    partial.replace(file)


def read_part(file: Path) -> Part:
    """What a file says of itself.

    Raises:
        ConfigurationError: unreadable, or no part.
    """
    try:
        with safe_open(file, "pt") as opened:
            return Part.model_validate_json((opened.metadata() or {})["part"])
    except (OSError, SafetensorError) as error:
        raise ConfigurationError(f"cannot read {file}: {error}") from error
    except (KeyError, ValidationError) as error:
        raise ConfigurationError(f"{file} is no purifier or mapper of this program") from error


def check(file: Path, part: Part, expected: Expected) -> None:
    """Refuse a part that was made for something else.

    Raises:
        ConfigurationError: for another encoder, normalisation, picture size or noise level.
    """
    if part.encoder != expected.encoder and not expected.transferred:
        raise ConfigurationError(
            f"{file} was trained for an encoder with digest {part.encoder}, this one has"
            f" {expected.encoder}; a transfer must be declared (`transferred`)"
        )
    pixels = expected.pixels
    normalised = (part.mean or pixels.mean, part.std or pixels.std)
    if normalised != (pixels.mean, pixels.std) and not expected.transferred:
        raise ConfigurationError(
            f"{file} was trained for an encoder that normalises pixels by mean and std"
            f" {normalised[0]}, {normalised[1]}, this one by {pixels.mean}, {pixels.std};"
            " a transfer must be declared (`transferred`)"
        )
    if part.size != pixels.size:
        raise ConfigurationError(
            f"{file} was trained on pictures of {_by(part.size)}, this model's are"
            f" {_by(pixels.size)}"
        )
    if untrained := [f"{s:g}" for s in expected.sigmas if s not in part.sigmas]:
        raise ConfigurationError(
            f"{file} was not trained for sigma {', '.join(untrained)}; it was for"
            f" {', '.join(f'{s:g}' for s in sorted(set(part.sigmas)))}"
        )


def load_unet(file: Path) -> tuple[UNet, Part]:
    """A lightweight purifier and what it was trained for.

    Raises:
        ConfigurationError: unreadable, or not a U-Net of this shape.
    """
    part = read_part(file)
    if part.kind != "unet":
        raise ConfigurationError(f"{file} holds a {part.kind}, a purifier was expected")
    config = {name: _tuple(value) for name, value in part.config.items()}
    module: UNet = load_weights(file, lambda: UNet(UNetConfig(**config)))
    return module, part


def load_mapper(file: Path) -> tuple[Mapper, Part]:
    """A mapper and what it was trained for.

    Raises:
        ConfigurationError: unreadable, or not a mapper of this shape.
    """
    part = read_part(file)
    if part.kind != "mapper":
        raise ConfigurationError(f"{file} holds a {part.kind}, a mapper was expected")
    config = {name: _tuple(value) for name, value in part.config.items()}
    module: Mapper = load_weights(file, lambda: Mapper(MapperConfig(**config)))
    return module, part


def config_of(module: Purifier | Mapper) -> dict[str, Any]:
    """The shape of a module of this program, as a file holds it.

    Raises:
        ConfigurationError: a purifier of another program.
    """
    if isinstance(module, (UNet, Mapper)):
        return asdict(module.config)
    raise ConfigurationError(f"{type(module).__name__} is kept in its own format")


def load_weights(file: Path, make: Callable[[], Any]) -> Any:
    """A module with the weights of a file.

    Raises:
        ConfigurationError: they do not fit it.
    """
    try:
        module = make()
        module.load_state_dict(load_file(file))
    except (OSError, SafetensorError, RuntimeError, TypeError, ValueError) as error:
        first = str(error).strip().splitlines()[0]
        raise ConfigurationError(f"{file} does not fit its own description: {first}") from error
    return module


def _tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _by(size: tuple[int, int]) -> str:
    return f"{size[0]} x {size[1]}"
