import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from service.certificate.directions import top_eigenvalue, top_upper, worst_direction
from service.certificate.evidence import Gram


def exact(h, quadratic, linear):
    """max over ‖w‖ <= 1 by the eigenvectors and the root of the secular equation."""
    values, vectors = np.linalg.eigh((h * quadratic[:, None]).T @ h)
    pull = vectors.T @ (h.T @ linear)
    gaps = np.geomspace(1e-12, 1e3, 200_000)
    tau = values[-1] + gaps
    bound = tau + sum(p * p / (tau - v) for p, v in zip(pull, values, strict=True)) / 4
    return bound.min()


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 60), st.integers(2, 30), st.floats(0, 2), st.integers(0, 10**6))
@example(n=1, d=2, pull=2.6065390963564447e-160, seed=1)
@example(n=40, d=7, pull=5e-324, seed=1)
def test_bounds_the_worst_direction_closely_from_above(n, d, pull, seed):
    rng = np.random.default_rng(seed)
    h = rng.normal(size=(n, d)) * 0.3 * rng.random(d)
    quadratic, linear = rng.random(n), pull * rng.random(n)
    found = worst_direction(h @ h.T, quadratic, linear)
    truth = exact(h, quadratic, linear)
    assert found >= truth - 1e-9
    assert found <= truth * 1.03 + 1e-6


def test_no_direction_that_can_be_found_exceeds_it():
    rng = np.random.default_rng(2)
    h = rng.normal(size=(40, 6)) * 0.3
    quadratic, linear = rng.random(40), rng.normal(size=40)
    found = worst_direction(h @ h.T, quadratic, linear)
    w = rng.normal(size=(100_000, 6))
    y = (w / np.linalg.norm(w, axis=1, keepdims=True)) @ h.T
    assert (y * y @ quadratic + y @ linear).max() <= found


@pytest.mark.parametrize("quadratic", [0.0, 1.0])
def test_degenerate_samples_have_a_bound(quadratic):
    zero, one = np.zeros((3, 4)), np.eye(1, 4).repeat(5, 0)
    assert worst_direction(zero @ zero.T, np.full(3, quadratic), np.ones(3)) < 1e-6
    found = worst_direction(one @ one.T, np.full(5, quadratic), np.ones(5))
    assert found == pytest.approx(5 * quadratic + 5, rel=0.02)
    assert found >= 5 * quadratic + 5


def test_top_eigenvalue_is_an_estimate_from_below():
    rng = np.random.default_rng(3)
    h = rng.normal(size=(300, 400))
    gram = h @ h.T
    truth = np.linalg.eigvalsh(gram)[-1]
    assert 0.95 * truth <= top_eigenvalue(gram) <= truth * (1 + 1e-9)
    assert top_eigenvalue(np.zeros((2, 2))) == 0


def test_a_start_across_the_one_direction_there_is_does_no_harm():
    """Rounding may make what the first step finds along it negative."""
    for seed in range(50):
        rng = np.random.default_rng(seed)
        n = int(rng.integers(3, 20))
        h = rng.random() * rng.permuted([1.0, -1.0] * n)
        gram = np.outer(h, h)
        assert 0 <= top_eigenvalue(gram) + 1e-12 <= h @ h + 1e-9
        assert h @ h - 1e-9 <= top_upper(Gram(gram)) <= 2.1 * (h @ h)
