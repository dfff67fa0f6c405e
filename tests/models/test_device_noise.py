import numpy as np
import pytest
import torch
from scipy.special import ndtr, ndtri

from service.models import device_noise
from service.models.device_noise import WORDS, grid_noise, normal, philox, sample_words
from service.types import Stage

SEED = b"0123456789abcdef"
# The known answers of the authors' library, Random123: counter, key, result.
KNOWN = [
    ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    (
        (0xFFFFFFFF,) * 4,
        (0xFFFFFFFF,) * 2,
        (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD),
    ),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]


@pytest.mark.parametrize(("counter", "key", "answer"), KNOWN)
def test_philox_gives_its_authors_known_answers(counter, key, answer):
    words = philox([torch.tensor([w]) for w in counter], *(torch.tensor([k]) for k in key))
    assert tuple(int(word) for word in words) == answer


def noise(first=0, count=4, stage=Stage.ESTIMATE, seed=SEED, sigma=64.0, values=3 * 50 * 50):
    words = torch.from_numpy(sample_words(seed, stage, first, count))
    return grid_noise(words, torch.full((count,), sigma, dtype=torch.float64), values)


def test_a_sample_depends_on_seed_stage_and_index_alone():
    together = noise(0, 4)
    for index in range(4):
        assert torch.equal(noise(index, 1)[0], together[index])
    others = [noise(5, 1), noise(0, 1, Stage.SELECT), noise(0, 1, seed=SEED[::-1])]
    for other in others:
        assert abs(np.corrcoef(other[0], together[0])[0, 1]) < 0.06  # 5 deviations of 7,500 pairs


def test_it_is_standard_normal_times_sigma():
    values = (noise(0, 20, values=50_000) / 64).double().numpy()
    # A million values: each statistic within five of its standard errors, false alarms below 1e-5.
    assert abs(values.mean()) < 5e-3
    assert abs(values.var() - 1) < 5 * np.sqrt(2 / 1e6)
    assert abs((values**3).mean()) < 5 * np.sqrt(15 / 1e6)
    assert abs((values**4).mean() - 3) < 5 * np.sqrt(96 / 1e6)
    beyond = (np.abs(values) > 4).mean()
    assert 2e-5 < beyond < 1.1e-4  # 6.3e-5


LAST = 0xFFFFFFFF


@pytest.mark.parametrize("word", [0, 1, 0x7FFFFFFF, 0x80000000, LAST - 1, LAST])
def test_no_words_make_a_value_that_is_not_finite(monkeypatch, word):
    def constant(counter, *_):
        return [torch.full_like(part, word) for part in counter]

    monkeypatch.setattr(device_noise, "philox", constant)
    assert noise().isfinite().all()
    assert noise().abs().max() < 9.2 * 64
    assert torch.equal(noise(sigma=0.0), torch.zeros(4, 7500))


def test_words_and_their_complements_are_opposite_values():
    high, low = torch.tensor([0, 5, 0x7FFFFFFF, 0x12345678]), torch.tensor([0, LAST, 77, 9])
    assert torch.equal(normal(high ^ 0x80000000, low), -normal(high, low))


@pytest.mark.parametrize("z", [0.5, 4.0, 6.5, 7.5, 8.5])
def test_the_tail_is_as_fine_as_the_cells_of_the_grid(z):
    """How many of the 2^64 words fall below -z: counted by bisection, as monotone as `normal`."""
    low, high = 0, 2**63

    def value(bits):
        return float(normal(torch.tensor([bits >> 32]), torch.tensor([bits & LAST])))

    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if value(middle) < -z else (low, middle)
    assert abs(high * 2.0**-64 - ndtr(-z)) < max(2.0**-63, 1e-14 * ndtr(-z))
    assert value(0) == pytest.approx(ndtri(2.0**-65), rel=1e-14)


def test_neighbouring_values_of_a_sample_are_independent():
    values = noise(0, 20, values=50_000).double().numpy() / 64
    for lag in (1, 2, 50):
        assert abs((values[:, :-lag] * values[:, lag:]).mean()) < 5e-3


def test_every_value_lies_on_the_grid():
    steps = noise() * 256
    assert torch.equal(steps, steps.round())


def test_without_sigma_there_is_no_noise():
    assert torch.equal(noise(sigma=0.0), torch.zeros(4, 7500))


def test_names_of_samples_differ():
    names = sample_words(SEED, Stage.SELECT, 0, 1000)
    assert names.shape == (1000, WORDS)
    assert len({tuple(name) for name in names.tolist()}) == 1000
    assert names.min() >= 0
    assert names.max() < 2**32
