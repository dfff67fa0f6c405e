import numpy as np
import pytest

from service.certificate.bounds import law_lower
from service.certificate.certify import survival_lower
from service.certificate.thresholds import thresholds


def features(projections):
    """Unit rows in many dimensions whose projection on e_1 is given, orthogonal parts cancelling."""
    rows = np.zeros((2 * len(projections), 2 + len(projections)))
    rows[:, 0] = np.repeat(projections, 2)
    for i, s in enumerate(projections):
        rows[2 * i, 1 + i] = np.sqrt(1 - s * s)
        rows[2 * i + 1, 1 + i] = -np.sqrt(1 - s * s)
    return rows


def places(projections):
    rows = features(np.asarray(projections))
    return thresholds(rows.sum(0), rows)


def test_a_narrow_law_is_probed_in_few_places_and_a_wide_one_in_many():
    rng = np.random.default_rng(1)
    assert len(places(0.9 + 0.02 * rng.normal(size=50))) == 8
    assert len(places(rng.uniform(0.2, 1, 50))) > 18


def test_more_places_bound_a_wide_law_better():
    rng = np.random.default_rng(2)
    sample = rng.uniform(0.2, 1, 300)
    wide = places(rng.uniform(0.2, 1, 50))
    few = wide[:: len(wide) // 7]
    assert law_lower(wide, survival_lower(sample, wide, 0.001), 0.5) > law_lower(
        few, survival_lower(sample, few, 0.001), 0.5
    )


@pytest.mark.parametrize("count", [1, 2])
def test_with_too_few_samples_the_places_are_fixed(count):
    assert places([0.9] * count)[0] == 0.0


def test_no_place_is_at_minus_one_where_nothing_needs_probing():
    rng = np.random.default_rng(3)
    assert places(rng.uniform(-1, 1, 40)).min() > -1
