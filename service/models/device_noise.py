"""The same kind of noise as `noise`, made where the model runs: any torch device, one call a batch.

Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", 2011) in 64-bit integer
arithmetic, two words of it to a sign and a 63-bit tail probability, the inverse normal distribution
function in float64, and the grid of `noise`. Key and counter of a sample are a digest of (seed,
stage, index), so packing changes nothing. Largest value 9.1 sigma. Not the numbers that numpy
draws: the kind of device is part of a model's revision.
"""

import hashlib

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from service.models.noise import GRID
from service.types import Stage

# Part of a revision on every device that makes its own noise: changed whenever the numbers are.
NOISE = "philox4x32-10, 64 bits a value"
WORDS = 5  # 32-bit words that name a sample: two of the key, three of the counter
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_WEYL = (0x9E3779B9, 0xBB67AE85)
_ROUNDS = 10
_MASK = 0xFFFFFFFF


def sample_words(seed: bytes, stage: Stage, first: int, count: int) -> NDArray[np.int64]:
    """What names samples first ... first + count - 1 of a stage, [count, WORDS], 32 bits each."""
    names = (
        hashlib.blake2b(
            seed + int(stage).to_bytes(8, "little") + index.to_bytes(8, "little"),
            digest_size=4 * WORDS,
        ).digest()
        for index in range(first, first + count)
    )
    words = np.frombuffer(b"".join(names), "<u4").reshape(count, WORDS)
    return words.astype(np.int64)


def grid_noise(words: Tensor, sigma_levels: Tensor, values: int) -> Tensor:
    """Noise in pixel levels, every value a multiple of 1/256 level.

    Args:
        words: int64 [n, WORDS], as `sample_words` gives.
        sigma_levels: float64 [n], standard deviation in levels; 0 gives no noise.
        values: of each sample.

    Returns:
        float32 [n, values].
    """
    blocks = -(-values // 2)
    counter = torch.arange(blocks, device=words.device)[None].expand(len(words), -1)
    rest = [words[:, 2 + i, None].expand(-1, blocks) for i in range(3)]
    a, b, c, d = philox([counter, *rest], words[:, 0, None], words[:, 1, None])
    normals = torch.stack([normal(a, b), normal(c, d)], 2).flatten(1)[:, :values]
    steps = normals * (sigma_levels[:, None] * GRID)
    levels: Tensor = (steps.round() / GRID).float()
    return levels


def philox(counter: list[Tensor], low_key: Tensor, high_key: Tensor) -> list[Tensor]:
    """Four 32-bit words for each four-word counter; int64 throughout."""
    a, b, c, d = counter
    for turn in range(_ROUNDS):
        one, other = _product(a, _MULTIPLIERS[0]), _product(c, _MULTIPLIERS[1])
        keys = [(k + turn * w) & _MASK for k, w in zip((low_key, high_key), _WEYL, strict=True)]
        a, b, c, d = other[0] ^ b ^ keys[0], other[1], one[0] ^ d ^ keys[1], one[1]
    return [a, b, c, d]


def _product(word: Tensor, factor: int) -> tuple[Tensor, Tensor]:
    """High and low 32 bits of a product, which may overflow the sign of int64: in halves."""
    low, high = word * (factor & 0xFFFF), word * (factor >> 16)  # each below 2^48
    whole_low = low + ((high & 0xFFFF) << 16)
    return ((high >> 16) + (whole_low >> 32)) & _MASK, whole_low & _MASK


def normal(high: Tensor, low: Tensor) -> Tensor:
    """A standard normal from each pair of words: a sign and the probability of what is beyond.

    Float64 is dense near 0, so small probabilities keep their steps of 2^-64. A uniform of 53 bits
    in (0, 1) has 2^-53 in the tails, where a pixel level's cell may be less likely than that, and
    rounds to 1 at its upper end.
    """
    bits = ((high & 0x7FFFFFFF) << 32) | low
    beyond = torch.special.ndtri((bits.double() + 0.5) * 2.0**-64)  # of (0, 1/2]
    return torch.where(high >> 31 == 1, -beyond, beyond)
