"""Where event A probes the law of s: a rule that sees the selection sample alone."""

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

# Far below the selection sample, at its minimum, and its quantiles; more of them for a wide law.
_QUANTILES = (0.0, 0.02, 0.196, 0.372, 0.548, 0.724, 0.9)
_WIDE_QUANTILES = tuple(np.linspace(0, 0.95, 20))
_WIDE = 0.3  # from the minimum to the 0.9 quantile; encoders' laws measure 0.1 to 0.2
_BELOW_MINIMUM = 3.0
# With fewer selection samples than this their quantiles say nothing, and fixed places do better.
_FEWEST_FOR_QUANTILES = 5
_FIXED_THRESHOLDS = (0.0, 0.3, 0.5, 0.65, 0.75, 0.85, 0.92, 0.97)
# Below any rounding of s: with identical features a threshold must not fall just above them all.
_ROUNDING = 1e-12


def projections_on_others(total: Floats, features: Floats) -> Floats:
    """Each feature on the mean of the *others*; its own part in the mean would place it too high.

    Args:
        total: sum of the whole sample, [d].
        features: some of it, [m, d].
    """
    inner = np.array([total @ feature for feature in features])
    others = np.sqrt(np.maximum(total @ total - 2 * inner + 1, 1e-300))
    return np.asarray(np.clip((inner - 1) / others, -1.0, 1.0), dtype=np.float64)


def thresholds(total: Floats, features: Floats) -> Floats:
    """Where to probe the law of s: from the selection sample alone.

    Args:
        total: sum of the selection sample, [d].
        features: the selection sample, or the part of it that was kept, [m, d].
    """
    if len(features) < _FEWEST_FOR_QUANTILES:
        return np.array(_FIXED_THRESHOLDS)
    projections = projections_on_others(total, features)
    width = float(np.quantile(projections, _QUANTILES[-1]) - projections.min())
    quantiles = np.quantile(projections, _WIDE_QUANTILES if width > _WIDE else _QUANTILES)
    below = quantiles[0] - _BELOW_MINIMUM * (np.median(projections) - quantiles[0])
    # P(s >= -1) = 1 needs no probing: a threshold there would only spend alpha.
    places = [place for place in (below, *quantiles) if place > -1] or [0.0]
    return np.asarray(np.unique(np.minimum(places, 1.0)) - _ROUNDING, dtype=np.float64)
