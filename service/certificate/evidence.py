"""What a tally hands to the statistics: marks at checkpoints, and the evidence made of them."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Mark:
    """The state at a checkpoint, whatever is added afterwards.

    Attributes:
        samples: estimation samples counted, n.
        orthogonal_sum: sum of h_i, [d].
        full_blocks: blocks handed out before.
        rows: float32 [m, d], the features after those blocks.
    """

    samples: int
    orthogonal_sum: Floats
    full_blocks: int
    rows: NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Selection:
    """What the selection sample foretells of the estimation sample; n' of it were kept.

    Attributes:
        projections: of each kept feature on the mean of the others, [n'].
        orthogonal: h of each kept feature, [n', d].
        samples: n0.
    """

    projections: Floats
    orthogonal: Floats
    samples: int


@dataclass(frozen=True, slots=True)
class Gram:
    """Inner products <h_i, h_j> of the samples of one block, [n, n]."""

    matrix: Floats


@dataclass(frozen=True, slots=True)
class Evidence:
    """All that the certificate needs to know of the samples.

    Attributes:
        embedding: u as served, float32 [d], unit norm to float32 precision.
        thresholds: where event A probes the law of s; they depend on the selection sample only.
        projections: s_i = <u, f_i> of the estimation sample, [n], in [-1, 1].
        reference_cosines: <f(x), f_i> of the estimation sample, [n].
        mean_norm: norm of the mean of h_i.
        spectrum: all h_i, [n, d], or their inner products, while no block was full; else the mean
            over blocks of each block's largest eigenvalue, never below that of the whole sample.
        selection: n0.
    """

    embedding: NDArray[np.float32]
    thresholds: Floats
    projections: Floats
    reference_cosines: Floats
    mean_norm: float
    spectrum: "Floats | Gram | float"
    selection: int
