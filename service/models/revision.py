"""Digests: of a folder of weights, and of everything that a smoothed function depends on."""

import hashlib
import json
from dataclasses import asdict
from pathlib import Path

from service.errors import ConfigurationError
from service.models.device_noise import NOISE
from service.models.distributions import sha256
from service.models.packages import Manifest
from service.types import Arrangement

# Part of every revision: raised whenever the smoothed function or its noise changes.
_FUNCTION_VERSION = 1


def folder_digest(folder: Path) -> str:
    """Digest over the model's configuration and every safetensors file, names included.

    Raises:
        ConfigurationError: no safetensors, or an index that names files elsewhere.
    """
    indices = sorted(folder.glob("*.safetensors.index.json"))
    weights = sorted(folder.glob("*.safetensors"))
    described = list(folder.glob("config.json")) or folder.glob("open_clip_config.json")
    files = sorted([*weights, *indices, *described])
    if not weights:
        raise ConfigurationError(
            f"{folder} holds no .safetensors weights; other formats are refused"
        )
    for index in indices:
        if elsewhere := sorted(_named_by(index) - {file.name for file in weights}):
            raise ConfigurationError(f"{index} names {elsewhere[0]!r}, which is not beside it")
    whole = hashlib.sha256()
    for file in files:
        whole.update(f"{file.name}\0{sha256(file)}\n".encode())
    return whole.hexdigest()


def _named_by(index: Path) -> set[str]:
    try:
        return set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigurationError(f"{index} is no index of weights: {error!r}") from error


def revision(manifest: Manifest, device: str, arrangement: Arrangement) -> str:
    """Digest of everything the smoothed function depends on.

    Args:
        manifest: of the package.
        device: "cpu" or "cuda".
        arrangement: all of it but `lanes`.
    """
    depends_on = {
        "function": _FUNCTION_VERSION,
        "weights": manifest.encoder.sha256,
        **manifest.digests,
        "preprocessing": asdict(manifest.preprocessing.value()),
        "device": device,
        "dtype": f"torch.{arrangement.dtype}",
        "batch_size": arrangement.batch_size,
    }
    if device != "cpu":
        depends_on["noise"] = NOISE
    # Absent where they are what they were before they could be chosen.
    if arrangement.memory_format != "channels_last":
        depends_on["memory_format"] = arrangement.memory_format
    if arrangement.threads != 1:
        depends_on["threads"] = arrangement.threads
    text = json.dumps(depends_on, sort_keys=True)
    return f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"
