import json
import math
from pathlib import Path

import mpmath
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.certificate.intervals import clopper_pearson_lower, kl_lower, kl_upper

VECTORS = json.loads((Path(__file__).parent / "vectors.json").read_text())


@pytest.mark.parametrize("case", VECTORS["kl_upper"], ids=str)
def test_kl_upper_agrees_with_the_vectors(case):
    assert kl_upper(case["p"], case["rate"]) == pytest.approx(case["value"], abs=1e-6)


@pytest.mark.parametrize("case", VECTORS["clopper_pearson_lower"], ids=str)
def test_clopper_pearson_agrees_with_the_vectors(case):
    found = clopper_pearson_lower(case["successes"], case["trials"], case["alpha"])
    assert found == pytest.approx(case["value"], abs=1e-6)


@given(st.floats(0, 1), st.floats(1e-6, 50))
def test_kl_upper_is_never_rounded_down(mean, rate):
    """Against forty digits: double precision cannot judge its own last ones."""
    q = kl_upper(mean, rate)
    assert mean <= q <= 1
    if mean < q < 1:
        with mpmath.workdps(40):
            p, exact = mpmath.mpf(mean), mpmath.mpf(q)
            head = p * mpmath.log(p / exact) if p > 0 else 0
            assert head + (1 - p) * mpmath.log((1 - p) / (1 - exact)) >= rate


@given(st.floats(0, 1), st.floats(1e-9, 50))
def test_lower_and_upper_mirror_each_other(mean, rate):
    assert kl_lower(mean, rate) == pytest.approx(1 - kl_upper(1 - mean, rate), abs=1e-12)
    assert kl_lower(mean, rate) <= mean + 1e-12


def test_no_success_proves_nothing():
    assert clopper_pearson_lower(0, 1000, 0.1) == 0


def test_all_successes_leave_the_exact_unseen_mass():
    # n successes in n trials: p^n = alpha
    assert clopper_pearson_lower(1000, 1000, 0.001) == pytest.approx(
        math.exp(math.log(0.001) / 1000), abs=1e-9
    )
