import numpy as np
import pytest
import torch

from service.models.noise import add_noise
from service.models.sampler import Draw, HostSampler, is_out_of_memory
from service.types import NoiseLevel, Stage
from tests.models.parts import small_mapper, small_unet
from tests.tiny import tiny_model

SEED = b"0123456789abcdef"
NOISE = NoiseLevel(0.25)


def image(value):
    return np.full((3, 8, 8), value, np.uint8)


def draw(picture, first=0, count=1, stage=Stage.ESTIMATE):
    return Draw(picture, NOISE, SEED, stage, first, count)


def test_features_are_those_of_the_noise_that_the_seed_names():
    model = tiny_model()
    sampled = HostSampler(model)([draw(image(90), first=7, count=2)])
    levels = np.zeros((4, 3, 8, 8), np.float32)
    for row in range(2):
        levels[row] = add_noise(image(90), NOISE, SEED, Stage.ESTIMATE, 7 + row)
    expected = model.pipeline(torch.from_numpy(levels)).numpy()[:2]
    np.testing.assert_array_equal(sampled.features, expected)
    assert sampled.noise_s > 0
    assert sampled.encode_s > 0


def test_what_an_earlier_call_left_behind_changes_nothing():
    sampler = HostSampler(tiny_model())
    fresh = HostSampler(tiny_model())([draw(image(90))]).features
    sampler([draw(image(250), count=4)])
    np.testing.assert_array_equal(sampler([draw(image(90))]).features, fresh)


def test_a_picture_that_cannot_be_drawn_spoils_its_own_rows_only():
    sampler = HostSampler(tiny_model())
    sampled = sampler([draw(image(9)), draw(np.zeros((3, 5, 5), np.uint8)), draw(image(9), 1)])
    assert [index for index, _ in sampled.spoiled] == [1]
    expected = sampler([draw(image(9), count=2)]).features
    np.testing.assert_array_equal(sampled.features[[0, 2]], expected)


def test_every_row_is_told_the_sigma_of_its_own_noise_and_the_second_clean_one_none():
    model = tiny_model(purifier=small_unet(), mapper=small_mapper(4))
    loud = Draw(image(90), NoiseLevel(0.5), SEED, Stage.ESTIMATE, 0, 1)
    sampled = HostSampler(model)([draw(image(90)), loud, draw(image(90), 0, 2, Stage.CLEAN)])
    levels = np.stack(
        [
            add_noise(image(90), NOISE, SEED, Stage.ESTIMATE, 0),
            add_noise(image(90), NoiseLevel(0.5), SEED, Stage.ESTIMATE, 0),
            image(90).astype(np.float32),
            image(90).astype(np.float32),
        ]
    )
    told = torch.tensor([0.25, 0.5, 0.25, 0.0])
    expected = model.pipeline(torch.from_numpy(levels), told).numpy()
    np.testing.assert_array_equal(sampled.features, expected)


def test_a_call_without_samples_is_a_warm_up():
    assert HostSampler(tiny_model())(()).features.shape == (0, 4)


@pytest.mark.parametrize(
    ("error", "is_one"),
    [
        (MemoryError(), True),
        (torch.OutOfMemoryError("CUDA out of memory"), True),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"), True),
        (RuntimeError("shapes do not match"), False),
        (ValueError("can't allocate memory"), False),
    ],
)
def test_out_of_memory_is_told_from_other_failures(error, is_one):
    assert is_out_of_memory(error) is is_one
