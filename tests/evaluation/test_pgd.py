import numpy as np
import pytest
import torch

from service.evaluation.attacks.budget import l2_distance
from service.evaluation.pgd import AttackPlan, Twin, attack, random_neighbour
from service.evaluation.rescore import cosine_estimate
from service.models.features import served_features
from service.types import NoiseLevel, Stage
from tests.evaluation.conftest import picture
from tests.models.parts import small_mapper, small_unet, with_parts

SIGMA = 0.25
SEED = bytes(16)
FEW = AttackPlan(steps=6, draws=20, judges=40)


def features(model, image, sigma=SIGMA, stage=Stage.SELECT, count=300):
    return served_features(model, image, NoiseLevel(sigma), SEED, stage, count)


def embedding(model, image):
    mean = features(model, image).mean(0)
    return mean / np.linalg.norm(mean)


def test_twin_computes_the_served_function(vit):
    levels = 255 * torch.rand((vit.batch_size, 3, 32, 32))
    with torch.no_grad():
        twin = Twin(vit.pipeline)(levels, 0.25)
    served = vit.pipeline(levels)
    assert torch.nn.functional.cosine_similarity(twin, served).min() > 0.999


def test_twin_computes_purifier_and_mapper_too(vit):
    around = with_parts(vit, small_unet(), small_mapper(vit.pipeline.dimensions))
    levels = 255 * torch.rand((vit.batch_size, 3, 32, 32))
    twin = Twin(around.pipeline)
    with torch.no_grad():
        computed, told_nothing = twin(levels, 0.25), twin(levels, 0.0)
    served = around.pipeline(levels, torch.full((vit.batch_size,), 0.25))
    assert torch.nn.functional.cosine_similarity(computed, served).min() > 0.999
    bare = vit.pipeline(levels)
    assert torch.nn.functional.cosine_similarity(told_nothing, bare).min() > 0.999
    assert torch.nn.functional.cosine_similarity(computed, bare).min() < 0.9


def test_the_attack_reaches_through_purifier_and_mapper(vit):
    around = with_parts(vit, small_unet(), small_mapper(vit.pipeline.dimensions))
    x = picture(vit)
    target = embedding(around, x)
    aware, unaware = (
        attack(Twin(model.pipeline), x, toward, 1.0, SIGMA, FEW, 1)
        for model, toward in ((around, target), (vit, embedding(vit, x)))
    )
    random = random_neighbour(x, 1.0, 1)
    turned, missed, beside = (
        cosine_estimate(features(around, image, stage=Stage.ESTIMATE), target)
        for image in (aware, unaware, random)
    )
    assert turned < min(missed, beside)


@pytest.mark.parametrize("epsilon", [0.004, 0.05, 0.5, 3.0])
@pytest.mark.parametrize("sigma", [0.0, SIGMA])
def test_the_budget_is_kept(vit, epsilon, sigma):
    x = picture(vit)
    quick = AttackPlan(steps=2, draws=4, judges=4)
    found = attack(Twin(vit.pipeline), x, embedding(vit, x), epsilon, sigma, quick, 1)
    assert found.dtype == np.uint8
    assert 0 < l2_distance(x, found) <= epsilon
    assert l2_distance(x, random_neighbour(x, epsilon, 1)) <= epsilon


@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_it_beats_random_noise_of_the_same_norm(vit, shift):
    x = picture(vit)
    u = embedding(vit, x)
    moved = attack(Twin(vit.pipeline), x, u, shift * SIGMA, SIGMA, FEW, 1)

    def angle(image):
        return np.arccos(cosine_estimate(features(vit, image, stage=Stage.ESTIMATE), u))

    assert angle(moved) > 3 * angle(random_neighbour(x, shift * SIGMA, 1))


def test_it_turns_the_bare_encoder(vit):
    x = picture(vit)
    clean = features(vit, x, 0.0, Stage.CLEAN, 1)[0]
    moved = attack(Twin(vit.pipeline), x, clean, 0.5, 0.0, AttackPlan(steps=20), 1)
    cosines = [
        float(clean @ features(vit, image, 0.0, Stage.CLEAN, 1)[0])
        for image in (moved, random_neighbour(x, 0.5, 1))
    ]
    assert cosines[0] < 0.9 < 0.99 < cosines[1]


def test_same_seed_same_attack(vit):
    x = picture(vit)
    u, twin = embedding(vit, x), Twin(vit.pipeline)
    quick = AttackPlan(steps=2, draws=4, judges=4)
    first, second = (attack(twin, x, u, 0.25, SIGMA, quick, 7) for _ in range(2))
    assert np.array_equal(first, second)
