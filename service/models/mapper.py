"""M, the smoothness mapper: features of purified noisy pictures, moved to where clean ones are.

Residual and told sigma: z = features + M(features, sigma), with M = 0 exactly at sigma = 0. The
paper (docs/psm.md) names its parts, attention, MLP, depthwise convolution and FiLM; sizes are ours.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from service.models.encoder import Encoder
from service.models.film import Film, SigmaEmbedding

_HALF_OPEN = 0.1  # the sigma at which the gate of the residual is half open


@dataclass(frozen=True, slots=True)
class MapperConfig:
    """Shape of a `Mapper`.

    Attributes:
        dimensions: D of a feature, or of each token.
        grid: rows and columns of the token map; None for one pooled feature.
        width: of the hidden layers.
        depth: blocks.
        heads: of the attention.
        embedding: length of the embedding of sigma.
    """

    dimensions: int
    grid: tuple[int, int] | None = None
    width: int = 256
    depth: int = 2
    heads: int = 4
    embedding: int = 64


def shape_for(encoder: Encoder) -> tuple[int, tuple[int, int] | None]:
    """D and grid of a mapper of this encoder's features.

    Tokens are taken to lie on a square; in a row, where their number is no square's.
    """
    if encoder.shape is None:
        return encoder.dimensions, None
    tokens, width = encoder.shape
    side = math.isqrt(tokens)
    return width, (side, side) if side * side == tokens else (1, tokens)


class Mapper(nn.Module):
    """For one pooled feature [n, D] or a token map [n, T, D], whatever their scale."""

    def __init__(self, config: MapperConfig) -> None:
        super().__init__()
        self.config = config
        self.sigma = SigmaEmbedding(config.embedding)
        self.enter = nn.Linear(config.dimensions, config.width)
        self.blocks = nn.ModuleList(_Block(config) for _ in range(config.depth))
        self.norm = nn.LayerNorm(config.width)
        self.leave = nn.Linear(config.width, config.dimensions)
        nn.init.zeros_(self.leave.weight)
        nn.init.zeros_(self.leave.bias)

    def forward(self, features: Tensor, sigmas: Tensor) -> Tensor:
        """The mapped features.

        Args:
            features: [n, D] for pooled ones, [n, T, D] for a map of T = rows * columns tokens.
            sigmas: float32 [n], of the noise before the encoder.

        Returns:
            the same shape and dtype; rows of sigma 0 as they are, bit for bit.
        """
        mapped: Tensor = features + self.residual(features, sigmas).to(features.dtype)
        return mapped

    def residual(self, features: Tensor, sigmas: Tensor) -> Tensor:
        """M(features, sigma) alone."""
        rows = features.flatten(1).float()
        # Root mean square over the whole map: the relation between its tokens stays.
        scale = rows.square().mean(1).sqrt().clamp_min(1e-12).view(-1, 1, 1)
        x = rows.view(len(rows), -1, self.config.dimensions) / scale  # [n, T, D]
        embedded = self.sigma(sigmas).to(self.enter.weight.dtype)
        hidden = self.enter(x.to(self.enter.weight.dtype))
        for block in self.blocks:
            hidden = block(hidden, embedded)
        moved = self.leave(self.norm(hidden)).float()
        gate = (sigmas / (sigmas + _HALF_OPEN)).view(-1, 1, 1)
        residual: Tensor = (gate * scale * moved).view_as(features)
        return residual


class _Block(nn.Module):
    """Over tokens: attention and depthwise convolution; over channels: FiLM and MLP; all added.

    One pooled feature is one token: nothing to mix, so the first two are left out.
    """

    def __init__(self, config: MapperConfig) -> None:
        super().__init__()
        width = config.width
        self.grid, self.heads = config.grid, config.heads
        if config.grid is not None:
            self.mix_norm = nn.LayerNorm(width)
            self.query_key_value = nn.Linear(width, 3 * width)
            self.attended = nn.Linear(width, width)
            self.depthwise = nn.Conv2d(width, width, 3, padding=1, groups=width)
        self.norm = nn.LayerNorm(width)
        self.film = Film(config.embedding, width)
        self.first = nn.Linear(width, 2 * width)
        self.second = nn.Linear(2 * width, width)
        nn.init.zeros_(self.second.weight)
        nn.init.zeros_(self.second.bias)

    def forward(self, x: Tensor, embedded: Tensor) -> Tensor:
        if self.grid is not None:
            mixed = self.mix_norm(x)
            x = x + self._attention(mixed) + self._convolution(mixed, self.grid)
        scale, shift = (part[:, None] for part in self.film(embedded))
        hidden = functional.gelu(self.first(torch.addcmul(shift, self.norm(x), scale)))
        added: Tensor = x + self.second(hidden)
        return added

    def _attention(self, x: Tensor) -> Tensor:
        n, tokens, width = x.shape
        parts = self.query_key_value(x).view(n, tokens, 3, self.heads, width // self.heads)
        query, key, value = parts.permute(2, 0, 3, 1, 4)  # [n, heads, T, width / heads] each
        mixed = functional.scaled_dot_product_attention(query, key, value)
        attended: Tensor = self.attended(mixed.transpose(1, 2).reshape(n, tokens, width))
        return attended

    def _convolution(self, x: Tensor, grid: tuple[int, int]) -> Tensor:
        n, _, width = x.shape
        maps = x.transpose(1, 2).reshape(n, width, *grid)
        convolved: Tensor = self.depthwise(maps)
        return convolved.flatten(2).transpose(1, 2)
