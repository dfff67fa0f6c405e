"""Which arrangements a model may run in: the package's own, and what else may be measured.

A setting that is pinned leaves one value of its kind. Nothing here measures.
"""

import os
from dataclasses import dataclass, replace
from itertools import product
from typing import TypeVar

import torch

from service.config import Settings
from service.types import Arrangement, DtypeName, MemoryFormat

T = TypeVar("T")
# A short request cannot fill more lanes than this; further cores are offered as threads in each.
MAX_LANES = 16
_BATCH_SIZES = (4, 8, 16, 32)
# On CUDA nothing is measured: two streams, one prepared while the other computes.
_CUDA_LANES, _CUDA_BATCH_SIZE = 2, 128
DTYPES: dict[DtypeName, torch.dtype] = {"float32": torch.float32, "bfloat16": torch.bfloat16}
MEMORY_FORMATS: dict[MemoryFormat, torch.memory_format] = {
    "channels_last": torch.channels_last,
    "contiguous": torch.contiguous_format,
}


@dataclass(frozen=True, slots=True)
class Space:
    """The arrangements to choose from.

    Attributes:
        own: the package's, with what is pinned.
        dtypes, memory_formats, batch_sizes: to choose from; the first is `own`'s.
        shares: (lanes, threads) to choose from; the first is `own`'s.
        pinned: every setting is.
    """

    own: Arrangement
    dtypes: tuple[DtypeName, ...]
    memory_formats: tuple[MemoryFormat, ...]
    shares: tuple[tuple[int, int], ...]
    batch_sizes: tuple[int, ...]
    pinned: bool

    def layouts(self) -> list[Arrangement]:
        """All of the own batch size, `own` first."""
        return [
            replace(self.own, dtype=dtype, memory_format=layout, lanes=lanes, threads=threads)
            for dtype, layout, (lanes, threads) in product(
                self.dtypes, self.memory_formats, self.shares
            )
        ]

    def batches(self, like: Arrangement) -> list[Arrangement]:
        """The same in every batch size, the own one first."""
        return [replace(like, batch_size=size) for size in self.batch_sizes]

    @property
    def size(self) -> int:
        """Of how many arrangements it is made."""
        layouts = len(self.dtypes) * len(self.memory_formats) * len(self.shares)
        return layouts * len(self.batch_sizes)

    def __contains__(self, found: Arrangement) -> bool:
        return (
            found.dtype in self.dtypes
            and found.memory_format in self.memory_formats
            and (found.lanes, found.threads) in self.shares
            and found.batch_size in self.batch_sizes
        )


def space(batch_size: int, settings: Settings, device: torch.device, cores: int) -> Space:
    """What the settings and the hardware leave to choose from.

    Args:
        batch_size: the package's own.
        settings: pins.
        device: on any but a CPU there is one of each kind.
        cores: that this process may use.
    """
    on_cpu = device.type == "cpu"
    dtype = choose_dtype(settings.dtype, device)
    shares = _shares(settings, cores) if on_cpu else [(settings.lanes or _CUDA_LANES, 1)]
    layout: MemoryFormat
    layout = "channels_last" if settings.memory_format == "auto" else settings.memory_format
    size = settings.batch_size or (batch_size if on_cpu else _CUDA_BATCH_SIZE)
    own = Arrangement(dtype, layout, size, *shares[0])
    dtypes, layouts, sizes = [dtype], [layout], [size]
    if on_cpu:
        if settings.dtype == "auto":
            dtypes.append("float32")
        if settings.memory_format == "auto":
            layouts.append("contiguous")
        if settings.batch_size is None:
            sizes += _BATCH_SIZES
    free = "auto" in {settings.dtype, settings.memory_format} or None in {
        settings.batch_size,
        settings.lanes,
        settings.threads,
    }
    return Space(own, _once(dtypes), _once(layouts), _once(shares), _once(sizes), not free)


def _shares(settings: Settings, cores: int) -> list[tuple[int, int]]:
    """(lanes, threads in each) of the cores; first one thread in each, as long as lanes suffice."""
    lanes, threads = settings.lanes, settings.threads
    if lanes and threads:
        return [(lanes, threads)]
    if lanes:
        return [(lanes, 1), (lanes, max(cores // lanes, 1))]
    if threads:
        return [(min(max(cores // threads, 1), MAX_LANES), threads)]
    most = min(cores, MAX_LANES)
    return [(most, 1), (most, cores // most), (1, cores)]


def _once(values: list[T]) -> tuple[T, ...]:
    """Each value at its first place."""
    return tuple(dict.fromkeys(values))


def available_cores() -> int:
    """Cores this process may use (a container's share, not the whole machine)."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def choose_dtype(name: str, device: torch.device) -> DtypeName:
    """`auto` is bfloat16 where the hardware multiplies it, else float32."""
    if name == "float32":
        return "float32"
    if name == "bfloat16" or device.type == "cuda":
        return "bfloat16"
    capable = torch.cpu.get_capabilities()
    native = capable.get("avx512_bf16") or capable.get("amx_bf16") or capable.get("bf16")
    return "bfloat16" if native else "float32"
