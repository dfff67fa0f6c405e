"""The likelihood ratio of a Gaussian shift, as nodes and weights that round expectations upwards.

Λ = exp(rz - r²/2), z ~ N(0, 1): what moving the picture by r·sigma does to the law of any feature
(Neyman & Pearson; docs/certificate.md, "The joint problem").
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr

Floats = NDArray[np.float64]

LARGEST_SHIFT = 4.0
_SMALLEST_SHIFT = 0.01  # the ratio is constant at 0; what holds at more holds at less
_CELLS = 120  # of z, each replaced by its chord
_REACH = 6.5  # standard deviations beyond which the ratio's tail is bounded in closed form


@dataclass(frozen=True, slots=True)
class Ratio:
    """Λ at nodes with weights: sum w_j V(Λ_j) >= E V(Λ) over the cells, for every convex V.

    Beyond the last node there is probability `tail` under no shift and `shifted_tail` under it.
    """

    shift: float
    nodes: Floats
    weights: Floats
    tail: float
    shifted_tail: float


def likelihood_ratio(shift: float) -> Ratio:
    """The ratio of shift r in [0, `LARGEST_SHIFT`]; very small ones are rounded up."""
    shift = max(shift, _SMALLEST_SHIFT)
    edges = np.linspace(-_REACH, _REACH + shift, _CELLS + 1)
    nodes = np.concatenate([[0.0], np.exp(shift * edges - shift * shift / 2)])
    mass, shifted = _masses(edges), _masses(edges - shift)
    mean = shifted / np.maximum(mass, 1e-300)
    upper = np.clip((mean - nodes[:-1]) / np.diff(nodes), 0.0, 1.0)
    weights = np.zeros(len(nodes))
    weights[:-1] += mass * (1 - upper)
    weights[1:] += mass * upper
    tail, shifted_tail = float(ndtr(-edges[-1])), float(ndtr(shift - edges[-1]))
    return Ratio(shift, nodes, weights, tail, shifted_tail)


def _masses(edges: Floats) -> Floats:
    """Normal probability of (-inf, e_0), (e_0, e_1), ...; from the nearer tail, to be accurate."""
    low, high = edges[:-1], edges[1:]
    inner = np.where(low > 0, ndtr(-low) - ndtr(-high), ndtr(high) - ndtr(low))
    return np.concatenate([[float(ndtr(edges[0]))], inner])
