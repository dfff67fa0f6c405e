"""Other weights for an encoder, fine-tuned to withstand attacks (docs/robustness.md)."""

import copy
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file

from service.errors import ConfigurationError
from service.models.encoder import Encoder
from service.models.psm import read_part

ENCODER_FILE = "encoder.safetensors"
_PREFIX = "encoder."


def weights_file(named: Path) -> Path:
    """The file of fine-tuned weights, or that in the folder of its run.

    Raises:
        ConfigurationError: there is none.
    """
    file = named / ENCODER_FILE if named.is_dir() else named
    if not file.is_file():
        raise ConfigurationError(f"no fine-tuned encoder: {file}")
    return file


def harden(encoder: Encoder, file: Path, digest: str) -> Encoder:
    """A copy of an encoder, or of what holds one, with the fine-tuned weights of a file.

    Args:
        encoder: the original, or the eyes of a language model that has it inside.
        file: of `fcs train fare` or `fcs train tecoa`, or the folder of its run.
        digest: of the original's weights.

    Raises:
        ConfigurationError: unreadable, or weights of another encoder.
    """
    file = weights_file(file)
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
    named = {name.removeprefix(_PREFIX): value for name, value in weights.items()}
    for inside in made.modules():
        own = dict(inside.named_parameters())
        if isinstance(inside, Encoder) and set(own) == set(named):
            inside.load_state_dict(named, strict=False)
            return made
    raise ConfigurationError(f"{file} has no weights for this encoder")
