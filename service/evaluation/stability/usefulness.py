"""Whether smoothed features still tell pictures apart: nearest neighbours, retrieval, confusion."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from service.certificate.labels import Directions

Floats = NDArray[np.float64]


def neighbour_accuracy(features: Floats, labels: Sequence[str]) -> float:
    """Share of pictures whose nearest other one has the same label; features [n, d], unit norm."""
    cosines = features @ features.T
    np.fill_diagonal(cosines, -np.inf)
    nearest = cosines.argmax(1)
    return float(np.mean([labels[i] == labels[j] for i, j in enumerate(nearest)]))


def self_retrieval(features: Floats, gallery: Floats) -> float:
    """Share of pictures whose nearest clean feature in the gallery [n, d] is their own."""
    return float(((features @ gallery.T).argmax(1) == np.arange(len(features))).mean())


def confusion(features: Floats) -> float:
    """Mean cosine of DIFFERENT pictures: a function that forgets its picture raises it too."""
    cosines = features @ features.T
    n = len(features)
    return float((cosines.sum() - np.trace(cosines)) / (n * (n - 1)))


def prototypes(features: Floats, labels: Sequence[str]) -> Directions:
    """One direction a label: the mean of its pictures' features [n, d] (Snell et al. 2017)."""
    names = tuple(sorted(set(labels)))
    of = np.array(labels)
    means = np.stack([features[of == name].mean(0) for name in names])
    return Directions(names, means / np.linalg.norm(means, axis=1, keepdims=True))
