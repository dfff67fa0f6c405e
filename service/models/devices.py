"""The setting `device` -> devices of this machine."""

import torch

from service.errors import ConfigurationError


def choose_devices(name: str) -> tuple[torch.device, ...]:
    """The devices of a setting; `auto` is every CUDA device, else the CPU.

    Raises:
        ConfigurationError: one that this machine does not have, or a CUDA device twice.
    """
    if name == "auto":
        count = torch.cuda.device_count() if cuda_is_usable() else 0
        return tuple(torch.device("cuda", i) for i in range(count)) or (torch.device("cpu"),)
    devices = tuple(torch.device(part) for part in name.split(","))
    cuda = [device.index or 0 for device in devices if device.type == "cuda"]
    if cuda and not cuda_is_usable():
        raise ConfigurationError(f"device {name!r}: this machine has no usable CUDA device")
    if cuda and max(cuda) >= torch.cuda.device_count():
        raise ConfigurationError(
            f"device {name!r}: this machine has {torch.cuda.device_count()} CUDA device(s)"
        )
    if len(set(cuda)) < len(cuda):
        raise ConfigurationError(f"device {name!r}: one engine is enough for a CUDA device")
    return devices


def choose_device(name: str) -> torch.device:
    """The first of `choose_devices`."""
    return choose_devices(name)[0]


def cuda_is_usable() -> bool:
    """Whether this machine has a CUDA device that torch can use."""
    return torch.cuda.is_available()
