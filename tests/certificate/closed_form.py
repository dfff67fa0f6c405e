"""Smoothed functions whose truth is known: rotation by c·x₁, a step between two unit vectors."""

import math

import numpy as np
from scipy.special import ndtr

from service.certificate.blocks import measure
from service.certificate.evidence import Mark
from service.certificate.tally import Tally
from service.types import Stage


def rotation(rng, count, c, sigma):
    """f(x + noise) = (cos c·n₁, sin c·n₁) at x = 0; F(x′) is F(x) turned by c·x′₁."""
    angle = c * sigma * rng.normal(size=count)
    return np.stack([np.cos(angle), np.sin(angle)], axis=1).astype(np.float32)


def rotation_truth(embedding, c, sigma, shift):
    """Smallest cos(embedding, F(x′)) over ‖x′‖ <= shift·sigma."""
    own = math.atan2(embedding[1], embedding[0])
    worst = min(abs(own) + c * shift * sigma, math.pi)
    return math.cos(worst)


def step(rng, count, edge, half):
    """Two unit vectors at ±half, the first while the noise is below `edge` (in sigmas)."""
    first = rng.normal(size=count) < edge
    angle = np.where(first, half, -half)
    return np.stack([np.cos(angle), np.sin(angle)], axis=1).astype(np.float32)


def step_truth(embedding, edge, half, shift):
    """Smallest cos(embedding, F(x′)) over all shifts up to `shift` in sigmas."""
    cosines = []
    for moved in np.linspace(-shift, shift, 201):
        p = ndtr(edge - moved)
        mean = np.array([math.cos(half), (2 * p - 1) * math.sin(half)])
        cosines.append(float(mean @ embedding / np.linalg.norm(mean)))
    return min(cosines)


def evidence_of(clean, selection, estimation):
    tally = Tally(selection.shape[1], len(selection), len(estimation))
    for stage, rows in (
        (Stage.CLEAN, clean),
        (Stage.SELECT, selection),
        (Stage.ESTIMATE, estimation),
    ):
        for found in tally.add(stage, rows):
            if isinstance(found, Mark):
                return tally.evidence(found)
            tally.absorb(measure(found))
    raise AssertionError("the last sample is a checkpoint")
