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
    """Digest over the model's configuration and every safetensors file, names included."""
    files = sorted([*folder.glob("*.safetensors"), *folder.glob("config.json")])
    if not any(file.suffix == ".safetensors" for file in files):
        raise ConfigurationError(
            f"{folder} holds no .safetensors weights; other formats are refused"
        )
    whole = hashlib.sha256()
    for file in files:
        whole.update(f"{file.name}\0{sha256(file)}\n".encode())
    return whole.hexdigest()


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
        **manifest.psm_digests,
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
