"""What the last bits of a feature depend on beside the model: hardware and libraries."""

import platform
from functools import cache

import numpy as np
import scipy
import torch

# Instructions that multiply bfloat16: with and without them torch sums in another order.
_INSTRUCTIONS = ("avx512_bf16", "amx_bf16", "bf16")


@cache
def describe(device: str) -> str:
    """One line for a kind of device, "cpu" or "cuda": where it agrees, replays agree."""
    if device == "cuda":
        hardware = torch.cuda.get_device_name()
    else:
        has = torch.cpu.get_capabilities()
        extra = [name for name in _INSTRUCTIONS if has.get(name)]
        level = torch.backends.cpu.get_cpu_capability()
        hardware = " ".join([platform.machine(), level, *extra])
    return (
        f"{hardware}; torch {torch.__version__}; numpy {np.__version__}; scipy {scipy.__version__}"
    )


def device_memory() -> int:
    """Bytes that torch holds on all CUDA devices; 0 without one."""
    if not torch.cuda.is_available():
        return 0
    return sum(torch.cuda.memory_allocated(i) for i in range(torch.cuda.device_count()))
