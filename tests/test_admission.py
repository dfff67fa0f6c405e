import math

import pytest

from service import admission
from service.config import Settings
from service.errors import Kind, ServiceError
from service.types import EmbedRequest, Target

SETTINGS = Settings()
SIGMAS = (0.1, 0.25)


def planned(**fields):
    return admission.plan(EmbedRequest(**{"images": (b"x",), **fields}), SIGMAS, SETTINGS)


def refused(**fields):
    with pytest.raises(ServiceError) as caught:
        planned(**fields)
    assert caught.value.kind is Kind.INVALID
    return caught.value


def test_defaults_fill_what_is_absent():
    plan = planned()
    assert plan.noise.sigma == 0.25
    assert plan.radii == (0.0625, 0.125, 0.25)
    assert (plan.selection, plan.estimation, plan.confidence) == (100, 1000, 0.999)
    assert plan.certify


def test_a_model_without_the_default_sigma_uses_its_own_first():
    request = EmbedRequest(images=(b"x",))
    assert admission.plan(request, (0.5, 1.0), SETTINGS).noise.sigma == 0.5


@pytest.mark.parametrize(
    ("fields", "param", "allowed"),
    [
        ({"images": ()}, "inputs", "1 to 32"),
        ({"images": (b"x",) * 33}, "inputs", "1 to 32"),
        ({"radii": ()}, "radii", "1 to 64"),
        ({"radii": (0.1,) * 65, "target": None}, "radii", "1 to 64"),
        ({"radii": (0.1, -0.1)}, "radii[1]", ">= 0"),
        ({"radii": (math.nan,)}, "radii[0]", "finite"),
        ({"radii": (math.inf,)}, "radii[0]", "finite"),
        ({"sigma": 0.3}, "sigma", "0.1, 0.25"),
        ({"sigma": -0.25}, "sigma", "0.1, 0.25"),
        ({"sigma": math.nan}, "sigma", "0.1, 0.25"),
        ({"samples": 0}, "samples", "1 to 100000"),
        ({"samples": 100_001}, "samples", "1 to 100000"),
        ({"selection_samples": 10_001}, "selection_samples", "1 to 10000"),
        ({"confidence": 1.0}, "confidence", "<= 0.99999"),
        ({"confidence": 0.0}, "confidence", "0 <"),
        ({"confidence": math.nan}, "confidence", "0 <"),
        ({"profile": "turbo"}, "profile", "fast, balanced, strong"),
        ({"priority": 101}, "priority", "-100 to 100"),
        ({"seed": "00" * 16}, "seed", "may not choose"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_each_bad_number_names_its_field_and_what_is_allowed(fields, param, allowed):
    error = refused(**fields)
    assert error.param == param
    assert allowed in error.message


@pytest.mark.parametrize("seed", ["", "xyz", "00" * 15, "AA" * 16])
def test_an_allowed_client_seed_must_have_its_form(seed):
    settings = Settings(allow_client_seed=True)
    with pytest.raises(ServiceError, match="32 lower-case"):
        admission.plan(EmbedRequest(images=(b"x",), seed=seed), SIGMAS, settings)


@pytest.mark.parametrize("timeout", [0.0, -1.0, 601.0])
def test_timeouts_outside_the_limit_are_refused(timeout):
    with pytest.raises(ServiceError, match="1 to 600000"):
        admission.timeout_s(EmbedRequest(images=(b"x",), timeout_s=timeout), SETTINGS)


def test_radius_zero_is_allowed():
    assert planned(radii=(0.0,), target=None).radii == (0.0,)


def test_the_radius_of_the_target_is_added_where_it_is_missing_and_costs_no_place():
    target = Target(0.3, 0.9)
    assert planned(radii=(0.1,), target=target).radii == (0.1, 0.3)
    assert planned(radii=(0.3, 0.1), target=target).radii == (0.3, 0.1)
    most = tuple(float(i) for i in range(64))
    assert len(planned(radii=most, target=target).radii) == 65
    # as a receipt of that request is replayed
    assert len(planned(radii=(*most, 0.3), target=target).radii) == 65
    with pytest.raises(ServiceError, match="65 radii"):
        planned(radii=(*most, 0.2), target=target)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, Target(0.125, 0.9)),
        ({"sigma": 0.1}, Target(0.05, 0.9)),
        ({"samples": 500}, None),
        ({"target": None}, None),
        ({"certify": False}, None),
        ({"samples": 500, "target": Target(0.1, 0.5)}, Target(0.1, 0.5)),
    ],
)
def test_which_target_a_request_has(fields, expected):
    plan = planned(**fields)
    assert plan.target == expected
    assert (len(plan.checkpoints) > 1) == (expected is not None)
    assert plan.checkpoints[-1] == plan.estimation


def test_a_profile_names_defaults_that_other_fields_override():
    fast, plain, strong = (planned(profile=p) for p in ("fast", "balanced", "strong"))

    assert plain == planned()
    assert fast.estimation < plain.estimation < strong.estimation
    assert fast.selection < plain.selection < strong.selection
    assert (fast.target, strong.target) == (Target(0.125, 0.8), Target(0.25, 0.9))
    own = planned(profile="strong", samples=70, selection_samples=7)
    assert (own.selection, own.estimation, own.target) == (7, 70, None)
