"""The dual bound against real laws: a linear programme builds the worst ones it can find."""

import math

import numpy as np
import pytest
import scipy.sparse as sparse
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import linprog
from scipy.stats import norm

from service.certificate.arrangement import by_payoff, by_ratio
from service.certificate.bounds import Cone
from service.certificate.dual import JointProblem, Multipliers
from service.certificate.joint import joint_angle
from service.certificate.ratio import likelihood_ratio

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
    assert worst_law(*case, angle - 0.03) > 0


def test_says_nothing_where_thresholds_are_negative_or_the_shift_is_huge():
    low = np.array([-0.4])
    assert joint_angle(low, np.array([0.99]), 0.1, 0.1, 0.5, math.pi) == math.pi
    assert joint_angle(-low, np.array([0.99]), 0.1, 0.1, 5.0, math.pi) == math.pi


def test_says_nothing_where_too_much_mass_is_unseen():
    found = joint_angle(np.array([0.5]), np.array([0.6]), 0.2, 0.2, 2.0, math.pi)
    assert found == math.pi


def problem_of(thresholds, survival, second, mean, shift):
    return JointProblem(
        np.array(thresholds), np.array(survival), second, mean, likelihood_ratio(shift)
    )


# A wide law: s uniform on [0.2, 1], as 1000 samples show it.
WIDE = (
    np.linspace(0.2, 0.95, 20),
    0.97 - np.linspace(0, 0.94, 20),
    0.08,
    0.08,
    0.25,
)


@given(
    st.floats(1e-3, 20),
    st.floats(0, 3),
    st.floats(1e-3, math.pi / 2 - 1e-3),
    st.sampled_from([0.01, 0.25, 1.0, 2.0, 4.0]),
)
def test_payoffs_are_never_below_any_point_of_the_disk(kappa, nu, theta, shift):
    problem = problem_of((0.3, 0.9), (0.9, 0.5), 0.1, 0.1, shift)
    nodes = problem.ratio.nodes
    circle, *levels = problem.payoffs(kappa, nu, theta)

    def payoff(s, y):
        gain = y * math.cos(theta) - s * math.sin(theta)
        return np.outer(gain, nodes) - (kappa * y * y + nu * y)[:, None]

    angle = np.linspace(-math.pi / 2, math.pi / 2, 2001)
    there = payoff(-np.cos(angle), np.sin(angle)).max(0)
    rounding = 1e-12 * (1 + nodes + kappa + nu)
    assert (circle >= there - rounding).all()
    step = angle[1] - angle[0]
    assert (circle <= there + step**2 / 8 * (nodes + 2 * kappa + nu) + 1e-6 * (1 + nodes)).all()
    for threshold, level in zip(problem.thresholds, levels, strict=True):
        y = math.sqrt(1 - threshold**2) * np.linspace(-1, 1, 2001)
        there = payoff(np.full(2001, threshold), y).max(0)
        assert (level >= there - rounding).all()


@pytest.mark.parametrize("case", [*CASES[:-1], WIDE], ids=["0", "1", "2", "3", "wide"])
def test_an_arrangement_bounds_what_any_multipliers_prove(case):
    problem = problem_of(*case)
    theta, kappa, nu = by_ratio(problem).smallest_angle(1.5)
    _, rewards = by_payoff(problem, kappa, nu, theta)
    rng = np.random.default_rng(31)
    for spread in (0.0, 0.01, 0.1, 1.0):
        for _ in range(50):
            some = np.exp(spread * rng.normal(size=2 + len(rewards)))
            x = Multipliers(kappa * some[0], nu * some[1], rewards * some[2:])
            assert problem.dual(x, theta - 1e-6) > 0


def test_a_wide_law_needs_a_second_arrangement_and_gets_it():
    problem = problem_of(*WIDE)
    theta, kappa, nu = by_ratio(problem).smallest_angle(1.5)
    second, rewards = by_payoff(problem, kappa, nu, theta)
    first = problem.dual(Multipliers(kappa, nu, rewards), theta)
    assert first > 1e-4
    theta, kappa, nu = second.smallest_angle(theta)
    _, rewards = by_payoff(problem, kappa, nu, theta)
    assert problem.dual(Multipliers(kappa, nu, rewards), theta) < first / 2
    assert joint_angle(*WIDE, 1.5) < theta + 2e-3


def exact_dual(problem, x, theta):
    """D in extended precision, E V from below by Jensen in 400 cells of z."""
    wide = np.longdouble
    shift = problem.ratio.shift
    edges = np.linspace(-8, 8 + shift, 401)

    def masses(e):
        return np.where(
            e[:-1] > 0, norm.sf(e[:-1]) - norm.sf(e[1:]), norm.cdf(e[1:]) - norm.cdf(e[:-1])
        )

    mass = masses(edges)
    ratio = wide(1) * masses(edges - shift) / mass
    kappa, sine, cosine = wide(x.kappa), wide(math.sin(theta)), wide(math.cos(theta))
    pull, lift = ratio * cosine - x.nu, ratio * sine
    size = np.abs(pull)
    low, high = np.zeros_like(size), np.full_like(size, np.pi / 2)
    for _ in range(70):
        angle = (low + high) / 2
        rises = size * np.cos(angle) - (lift + 2 * kappa * np.cos(angle)) * np.sin(angle) > 0
        low, high = np.where(rises, angle, low), np.where(rises, high, angle)
    best = size * np.sin(low) + lift * np.cos(low) - kappa * np.sin(low) ** 2
    earned = wide(0)
    for threshold, reward in zip(problem.thresholds, x.rewards, strict=True):
        earned += reward
        reach = np.sqrt(1 - wide(threshold) ** 2)
        y = np.clip(pull / (2 * kappa), -reach, reach)
        best = np.maximum(best, (pull - kappa * y) * y - threshold * lift + earned)
    spent = (x.rewards * problem.survival.astype(wide)).sum()
    fixed = kappa * problem.second_moment + wide(x.nu) * problem.mean - spent
    return fixed + (mass * best).sum()


def test_d_is_never_below_the_exact_value_whatever_the_multipliers_and_the_angle():
    rng = np.random.default_rng(47)
    for _ in range(40):
        levels = int(rng.integers(1, 8))
        problem = problem_of(
            np.sort(1 - 10.0 ** rng.uniform(-12, 0, levels)),
            np.sort(1 - 10.0 ** rng.uniform(-5, 0, levels))[::-1],
            10.0 ** rng.uniform(-8, 0),
            10.0 ** rng.uniform(-8, 0),
            rng.choice([0.01, 0.1, 1.0, 4.0]),
        )
        for _ in range(3):
            rewards = 10.0 ** rng.uniform(-12, rng.choice([0, 2, 8]), levels)
            kappa, nu = 10.0 ** rng.uniform(-12, 8, 2)
            x = Multipliers(kappa, nu * (rng.random() < 0.7), rewards * (rng.random(levels) < 0.8))
            theta = rng.choice([rng.uniform(0, 1.57), 10.0 ** rng.uniform(-12, -1)])
            for angle in (theta, math.pi / 2 - theta):
                assert problem.dual(x, angle) >= exact_dual(problem, x, angle)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, -1e-300])
def test_multipliers_and_angles_that_are_none_prove_nothing(bad):
    problem = problem_of(*CASES[0])
    theta, kappa, nu = by_ratio(problem).smallest_angle(1.5)
    _, rewards = by_payoff(problem, kappa, nu, theta)
    theta += 1e-4
    assert problem.dual(Multipliers(kappa, nu, rewards), theta) < -1e-9
    others = [
        (Multipliers(bad, nu, rewards), theta),
        (Multipliers(kappa, bad, rewards), theta),
        (Multipliers(kappa, nu, np.array([rewards[0], bad])), theta),
        (Multipliers(kappa, nu, rewards), bad),
        (Multipliers(0.0, nu, rewards), theta),
        (Multipliers(kappa, nu, rewards), math.pi / 2),
    ]
    for x, angle in others:
        assert problem.dual(x, angle) == math.inf
