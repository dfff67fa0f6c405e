"""The dual bound against real laws: a linear programme builds the worst ones it can find."""

import math

import numpy as np
import pytest
import scipy.sparse as sparse
from scipy.optimize import linprog
from scipy.stats import norm

from service.certificate.bounds import Cone
from service.certificate.joint import joint_angle

CASES = [
    # thresholds, survival, lambda, mu, shift
    ((0.5, 0.8), (0.97, 0.9), 0.05, 0.05, 0.5),
    ((0.3, 0.6, 0.8), (0.98, 0.95, 0.8), 0.03, 0.02, 1.0),
    ((0.2, 0.7), (0.99, 0.9), 0.02, 0.03, 1.5),
    ((0.6,), (0.995,), 0.01, 0.0, 2.0),
    ((-0.5, 0.4, 0.9), (0.99, 0.97, 0.5), 0.1, 0.1, 0.25),
]


def worst_law(thresholds, survival, second, mean, shift, theta):
    """sup of E[Λ(y cos θ - s sin θ)] over laws on a grid, measurable in 80 cells of z: attained."""
    edges = np.concatenate([[-np.inf], np.linspace(-5, 5 + shift, 79), [np.inf]])
    mass, shifted = np.diff(norm.cdf(edges)), np.diff(norm.cdf(edges - shift))
    kept = mass > 1e-13
    mass, ratio = mass[kept], (shifted[kept] / mass[kept])
    points = [
        (t, y)
        for t in thresholds
        for y in math.sqrt(1 - t * t)
        * np.sign(np.linspace(-1, 1, 21))
        * np.linspace(-1, 1, 21) ** 2
    ]
    points += [(-math.cos(a), math.sin(a)) for a in np.linspace(-0.6, math.pi / 2, 40)]
    s, y = np.array(points).T
    cells = len(mass)
    gain = np.kron(math.cos(theta) * y - math.sin(theta) * s, ratio)
    rows = [-np.repeat((s >= t - 1e-12).astype(float), cells) for t in thresholds]
    rows += [np.repeat(y * y, cells), np.repeat(y, cells)]
    solved = linprog(
        -gain,
        A_ub=sparse.csr_matrix(np.array(rows)),
        b_ub=[*(-p for p in survival), second, mean],
        A_eq=sparse.kron(np.ones((1, len(points))), sparse.identity(cells)).tocsr(),
        b_eq=mass,
        method="highs",
    )
    assert solved.status == 0, solved.message
    return -solved.fun


@pytest.mark.parametrize("case", CASES, ids=str)
def test_no_law_exceeds_the_angle_and_some_law_nearly_reaches_it(case):
    thresholds, survival, second, mean, shift = case
    start, _ = Cone(np.array(thresholds), np.array(survival), second, mean).plain_angle(shift)
    angle = joint_angle(np.array(thresholds), np.array(survival), second, mean, shift, start)
    assert angle < min(start, math.pi / 2)
    assert worst_law(*case, angle) <= 0
    assert worst_law(*case, angle - 0.05) > 0


def test_says_nothing_where_thresholds_are_negative_or_the_shift_is_huge():
    low = np.array([-0.4])
    assert joint_angle(low, np.array([0.99]), 0.1, 0.1, 0.5, math.pi) == math.pi
    assert joint_angle(-low, np.array([0.99]), 0.1, 0.1, 5.0, math.pi) == math.pi


def test_says_nothing_where_too_much_mass_is_unseen():
    found = joint_angle(np.array([0.5]), np.array([0.6]), 0.2, 0.2, 2.0, math.pi)
    assert found == math.pi
