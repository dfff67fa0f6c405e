"""The embedded default: published weights, converted once into safetensors in the cache."""

import os
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from service.errors import ConfigurationError
from service.models.distributions import locate, sha256
from service.models.encoder import Encoder
from service.models.lite0 import Lite0, fold_checkpoint
from service.models.packages import DistributionSource


def load_converted(source: DistributionSource, cache: Path) -> Encoder:
    """EfficientNet-Lite0 from the cache, converted from its distribution the first time."""
    target = cache / f"{source.converter}-{source.sha256[:16]}.safetensors"
    stamp = target.with_suffix(".sha256")
    if not (target.is_file() and stamp.is_file() and stamp.read_text() == sha256(target)):
        try:
            _convert(source, target)
        except (OSError, SafetensorError) as error:
            raise ConfigurationError(
                f"the converted weights cannot be kept in {cache}: {error}; name a folder that can"
                " be written: FCS_CACHE_DIR"
            ) from error
    encoder = Lite0()
    encoder.load_state_dict(load_file(target))
    return encoder


def _convert(source: DistributionSource, target: Path) -> None:
    file = locate(source)
    published = torch.load(file, map_location="cpu", weights_only=True)
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_suffix(f".{os.getpid()}.partial")
    save_file(fold_checkpoint(published), partial)
    partial.chmod(0o644)  # a container prepares as root and serves as somebody else
    digest = sha256(partial)
    partial.replace(target)
    stamp = target.with_suffix(".sha256")
    partial.write_text(digest)
    partial.replace(stamp)
