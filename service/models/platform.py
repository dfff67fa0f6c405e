"""What the last bits of a feature depend on beside the model: hardware and libraries."""

import platform
from functools import cache
from importlib.metadata import version

import numpy as np
import scipy
import torch
from torch import nn

# Instructions that multiply bfloat16: with and without them torch sums in another order.
_INSTRUCTIONS = ("avx512_bf16", "amx_bf16", "bf16")


# Whose code computes, where their modules are part of a model.
_MODELS_OF = ("diffusers", "transformers")


def describe(device: str, module: nn.Module | None = None) -> str:
    """One line for a kind of device, "cpu" or "cuda": where it agrees, replays agree.

    Args:
        device: its kind.
        module: what is computed there; libraries that it is made of are told too.
    """
    used = {type(part).__module__.partition(".")[0] for part in module.modules()} if module else {}
    libraries = [f"; {name} {version(name)}" for name in _MODELS_OF if name in used]
    return _hardware(device) + "".join(libraries)


@cache
def _hardware(device: str) -> str:
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
