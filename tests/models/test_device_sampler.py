"""The device's sampler on the CPU, where it runs without a graph; on CUDA where there is one."""

import gc

import numpy as np
import pytest
import torch

from service.models.device_sampler import DeviceSampler
from service.models.sampler import Draw, HostSampler
from service.types import NoiseLevel, Stage
from tests.models.parts import small_mapper, small_unet
from tests.tiny import tiny_model

SEED = b"0123456789abcdef"
NOISE = NoiseLevel(0.25)


def image(value):
    return np.full((3, 8, 8), value, np.uint8)


def draw(picture, stage=Stage.ESTIMATE, first=0, count=1, noise=NOISE):
    return Draw(picture, noise, SEED, stage, first, count)


def test_without_noise_it_gives_what_the_hosts_gives():
    model, picture = tiny_model(), image(200)
    draws = [draw(picture, Stage.CLEAN)]
    np.testing.assert_array_equal(
        DeviceSampler(model)(draws).features, HostSampler(model)(draws).features
    )


def test_it_tells_purifier_and_mapper_what_the_hosts_does():
    model = tiny_model(purifier=small_unet(), mapper=small_mapper(4))
    draws = [draw(image(200), Stage.CLEAN, count=2)]
    device, host = DeviceSampler(model)(draws).features, HostSampler(model)(draws).features
    np.testing.assert_array_equal(device, host)
    assert np.abs(host[0] - host[1]).max() > 1e-3


def test_packing_changes_nothing():
    sampler, dark, light = DeviceSampler(tiny_model(batch_size=8)), image(20), image(220)
    together = sampler([draw(dark, count=3), draw(light, first=5, count=4)]).features
    assert together.shape == (7, 4)
    for index in range(3):
        np.testing.assert_array_equal(
            sampler([draw(dark, first=index)]).features[0], together[index]
        )
    apart = sampler([draw(light, first=5, count=4)]).features
    np.testing.assert_array_equal(apart, together[3:])
    assert len({row.tobytes() for row in together}) == 7


def test_each_row_has_the_noise_of_its_own_level():
    model = tiny_model(batch_size=64)
    sampler, grey = DeviceSampler(model), image(128)
    spreads = [
        np.arctan2(*sampler([draw(grey, count=64, noise=NoiseLevel(s))]).features.T[1::-1]).std()
        for s in (0.1, 0.4)
    ]
    assert spreads[1] > 2 * spreads[0] > 0


def test_a_picture_that_does_not_fit_spoils_its_own_rows_only():
    sampler, good = DeviceSampler(tiny_model()), image(90)
    wrong = np.zeros((3, 5, 5), np.uint8)
    sampled = sampler([draw(good), draw(wrong), draw(good, first=1)])
    assert [index for index, _ in sampled.spoiled] == [1]
    np.testing.assert_array_equal(sampled.features[[0, 2]], sampler([draw(good, count=2)]).features)


def test_a_picture_is_on_the_device_once_and_leaves_with_its_job():
    sampler, picture = DeviceSampler(tiny_model()), image(5)
    sampler([draw(picture)])
    sampler([draw(picture, first=1)])
    assert len(sampler._pictures) == 1
    del picture
    gc.collect()
    assert sampler._pictures == {}


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_the_graph_gives_what_the_calls_give():
    model = tiny_model(device="cuda")
    sampler, picture = DeviceSampler(model), image(200)
    graphed = sampler([draw(picture, count=4)]).features
    own = sampler._buffers()
    eager = sampler._sample(own)[0][:4].cpu().numpy()
    np.testing.assert_array_equal(graphed, eager)
    on_host = DeviceSampler(tiny_model())([draw(picture, count=4)]).features
    np.testing.assert_allclose(graphed, on_host, atol=1e-6)
