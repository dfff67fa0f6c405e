"""Encoders inside installed distributions, converted once into safetensors in the cache."""

import os
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from service.errors import ConfigurationError
from service.models.distributions import locate, sha256
from service.models.encoder import Encoder
from service.models.lite0 import Lite0, fold_checkpoint
from service.models.packages import DistributionSource

_Conversion = Callable[[Mapping[str, Tensor]], dict[str, Tensor]]


def load_converted(source: DistributionSource, cache: Path) -> Encoder:
    """An encoder from the cache, converted from its distribution the first time."""
    encoder, convert = _architecture(source)
    target = cache / f"{source.converter}-{source.sha256[:16]}.safetensors"
    stamp = target.with_suffix(".sha256")
    if not (target.is_file() and stamp.is_file() and stamp.read_text() == sha256(target)):
        try:
            _convert(source, target, convert)
        except (OSError, SafetensorError) as error:
            raise ConfigurationError(
                f"the converted weights cannot be kept in {cache}: {error}; name a folder that can"
                " be written: FCS_CACHE_DIR"
            ) from error
    encoder.load_state_dict(load_file(target))
    return encoder


def _architecture(source: DistributionSource) -> tuple[Encoder, _Conversion]:
    """An encoder without weights, and how a published checkpoint becomes its state dict."""
    if source.converter == "efficientnet-lite0":
        return Lite0(), fold_checkpoint
    # Imported here: the embedded default starts in half the time without transformers.
    from service.models.mobilenet import MobileNet, rename_checkpoint

    return MobileNet(), rename_checkpoint


def _convert(source: DistributionSource, target: Path, convert: _Conversion) -> None:
    file = locate(source)
    published = torch.load(file, map_location="cpu", weights_only=True)
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_suffix(f".{os.getpid()}.partial")
    save_file(convert(published), partial)
    partial.chmod(0o644)  # a container prepares as root and serves as somebody else
    digest = sha256(partial)
    partial.replace(target)
    stamp = target.with_suffix(".sha256")
    partial.write_text(digest)
    partial.replace(stamp)
