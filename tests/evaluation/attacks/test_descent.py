"""Every attack against undefended features, and its budget."""

import numpy as np
import pytest
import torch

from service.evaluation.attacks.budget import Budget, l2_distance
from service.evaluation.attacks.descent import Effort, attack
from service.evaluation.attacks.objectives import (
    CropMatching,
    Displacement,
    Matching,
    TokenMatching,
)
from service.evaluation.attacks.seen import Seen, bare, differentiable
from tests.evaluation.conftest import picture

BUDGETS = [Budget("l2", 0.5), Budget("l2", 2.0), Budget("linf", 1 / 255), Budget("linf", 8 / 255)]


def levels(image):
    return torch.from_numpy(image.astype(np.float32))


@pytest.fixture(scope="module")
def seen(vit):
    return Seen(differentiable(bare(vit)))


def feature(seen, image):
    with torch.no_grad():
        return seen(levels(image)[None])[0]


def objectives(seen, image, target):
    """Each attack's objective; crops anew at every call."""
    own, wanted = feature(seen, image), feature(seen, target)
    return {
        "displacement": Displacement(seen, own),
        "matching": Matching(seen, wanted),
        "crops": CropMatching([seen], levels(target), torch.Generator().manual_seed(0)),
        "tokens": TokenMatching(seen, (4, len(own) // 4), wanted),
    }


def loss(objective, image):
    with torch.no_grad():
        return float(objective(levels(image).expand(64, -1, -1, -1)).mean())


@pytest.mark.parametrize("method", ["pgd", "apgd"])
@pytest.mark.parametrize("name", ["displacement", "matching", "crops", "tokens"])
def test_every_attack_beats_the_undefended_encoder_and_random_noise(vit, seen, name, method):
    image, target = picture(vit), picture(vit, "coffee.png")
    objective = objectives(seen, image, target)[name]
    budget = Budget("linf", 8 / 255)
    found = attack(image, objective, budget, Effort(method, steps=20), seed=0)
    beside = levels(image) + budget.to_levels(
        budget.random((1, *image.shape), torch.Generator().manual_seed(1)), levels(image)
    )
    turned, left = loss(objective, found), loss(objective, image)
    margin = 0.005 if name == "crops" else 0.02  # a loss over all crops has less to gain
    assert turned < min(left, loss(objective, beside[0].numpy())) - margin
    assert budget.holds(image, found)


@pytest.mark.parametrize("method", ["pgd", "apgd"])
@pytest.mark.parametrize("budget", BUDGETS, ids=str)
def test_no_attack_leaves_its_budget(vit, seen, budget, method):
    image = picture(vit)
    image[:, :8] = 255  # where there is no room upwards
    image[:, 8:16] = 0
    objective = Displacement(seen, feature(seen, image))
    found = attack(image, objective, budget, Effort(method, steps=4, restarts=2), seed=3)
    assert budget.holds(image, found)
    assert found.dtype == np.uint8
    assert (found != image).any()
    if budget.norm == "l2":
        assert l2_distance(image, found) <= budget.epsilon


def test_a_budget_does_not_hold_what_is_outside(vit):
    image = np.full((3, 4, 4), 100, np.uint8)
    other = image.copy()
    other[0, 0, 0] += 3
    assert Budget("linf", 3 / 255).holds(image, other)
    assert not Budget("linf", 2 / 255).holds(image, other)
    assert Budget("l2", 3 / 255).holds(image, other)
    other[1, 1, 1] += 1
    assert not Budget("l2", 3 / 255).holds(image, other)
    assert Budget("linf", 3 / 255).holds(image, other)


def test_more_steps_and_restarts_do_no_harm(vit, seen):
    """Of three pictures each; with one, chance could tell either way."""
    few, many = [], []
    for name in ("chelsea.png", "coffee.png", "astronaut.png"):
        image = picture(vit, name)
        objective = Displacement(seen, feature(seen, image))
        for effort, losses in ((Effort("apgd", 3), few), (Effort("apgd", 20, 2), many)):
            found = attack(image, objective, Budget("l2", 1.0), effort, 0)
            losses.append(float(objective(levels(found)[None])))
    assert np.mean(many) < np.mean(few)


def test_an_adaptive_attacker_sees_the_mean_of_noisy_features(vit):
    seen = Seen(differentiable(vit.pipeline), sigma=0.25, draws=64)
    image = picture(vit)
    with torch.no_grad():
        one, other = seen(levels(image)[None])[0], seen(levels(image)[None])[0]
        clean = Seen(seen.pipeline)(levels(image)[None])[0]
    assert one @ other < 1 - 1e-6  # fresh noise each time
    assert one @ other > one @ clean
