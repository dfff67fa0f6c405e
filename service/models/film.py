"""Sigma, told to a network: an embedding of its logarithm, and FiLM.

FiLM: Perez et al. 2018, arXiv:1709.07871.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

_FREQUENCIES = 8
_SMALLEST = 1e-3  # sigmas far below it are alike; it keeps the logarithm of 0 finite


class SigmaEmbedding(nn.Module):
    """Sigma [n] -> [n, length]: sines and cosines of its logarithm through two layers."""

    def __init__(self, length: int) -> None:
        super().__init__()
        self.first = nn.Linear(2 * _FREQUENCIES, length)
        self.second = nn.Linear(length, length)

    def forward(self, sigmas: Tensor) -> Tensor:
        """Embed float32 sigmas [n]."""
        logs = torch.log(sigmas + _SMALLEST)[:, None]
        octaves = torch.arange(_FREQUENCIES, device=sigmas.device)
        angles = logs * (math.pi / 8 * torch.exp2(octaves / 2))
        waves = torch.cat([angles.sin(), angles.cos()], 1).to(self.first.weight.dtype)
        hidden: Tensor = self.second(functional.silu(self.first(waves)))
        return functional.silu(hidden)


class Film(nn.Module):
    """Scale and shift of each channel from the embedding; at first one and zero."""

    def __init__(self, embedding: int, width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(embedding, 2 * width)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, embedded: Tensor) -> tuple[Tensor, Tensor]:
        """[n, embedding] -> scale and shift, [n, width] each."""
        scale, shift = self.linear(embedded).chunk(2, dim=1)
        return 1 + scale, shift
