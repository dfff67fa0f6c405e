"""Behaviour of service/profiles.py."""

from service.config import Settings
from service.profiles import NAMES, profile, profiles
from service.types import Target


def test_balanced_is_the_operators_own_defaults():
    settings = Settings(default_samples=500, default_selection_samples=50, default_target_bound=0.7)

    balanced = profile("balanced", settings)

    assert (balanced.estimation, balanced.selection) == (500, 50)
    assert balanced.target(0.5) == Target(0.25, 0.7)


def test_no_profile_asks_for_more_than_the_operator_allows():
    settings = Settings(
        max_samples=200,
        max_selection_samples=20,
        default_samples=200,
        default_selection_samples=20,
    )

    for _, found in profiles(settings):
        assert found.estimation <= 200
        assert found.selection <= 20


def test_without_a_target_shift_every_sample_is_spent():
    assert profile("balanced", Settings(default_target_shift=None)).target(0.25) is None


def test_every_name_is_listed_once_and_as_shipped_the_cheapest_first():
    found = dict(profiles(Settings()))

    assert tuple(found) == NAMES
    counts = [one.estimation for one in found.values()]
    assert counts == sorted(counts)
