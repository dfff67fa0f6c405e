import numpy as np
import pytest
from scipy import stats

from service.models.noise import GRID, MAX_SIGMA, SEED_BYTES, add_noise, picture_seed
from service.types import NoiseLevel, Stage

SEED = bytes(range(SEED_BYTES))
GREY = np.full((3, 160, 160), 128, np.uint8)


def noise_of(index=0, stage=Stage.SELECT, seed=SEED, sigma=0.25, image=GREY):
    return add_noise(image, NoiseLevel(sigma), seed, stage, index) - image.astype(np.float32)


def test_is_a_function_of_seed_stage_and_index():
    np.testing.assert_array_equal(noise_of(3), noise_of(3))


@pytest.mark.parametrize(
    "other",
    [{"index": 1}, {"stage": Stage.ESTIMATE}, {"seed": bytes(16)}, {"index": 2**40}],
    ids=["index", "stage", "seed", "far index"],
)
def test_any_change_of_seed_stage_or_index_gives_independent_noise(other):
    one, two = noise_of(0).ravel(), noise_of(**other).ravel()
    # correlation of 76,800 independent pairs: beyond 6/sqrt(n) with probability 2e-9
    assert abs(np.corrcoef(one, two)[0, 1]) < 6 / np.sqrt(one.size)


def test_neighbouring_samples_share_no_values_at_any_offset():
    one, two = noise_of(0).ravel(), noise_of(1).ravel()
    for lag in range(1, 50):
        assert (one[lag:] == two[:-lag]).mean() < 0.01


@pytest.mark.parametrize("sigma", [0.1, 0.25, 1.0])
def test_is_gaussian_with_the_certified_standard_deviation(sigma):
    values = np.concatenate([noise_of(i, sigma=sigma).ravel() for i in range(20)]) / (255 * sigma)
    # 1.5 million values; each check fails by chance with probability below 1e-6
    assert abs(values.mean()) < 5 / np.sqrt(values.size)
    assert abs(values.var() - 1) < 5 * np.sqrt(2 / values.size)
    assert stats.kstest(values, "norm").pvalue > 1e-6
    beyond = (np.abs(values) > 4).sum()
    expected = values.size * 2 * stats.norm.sf(4)
    assert abs(beyond - expected) < 6 * np.sqrt(expected)


def test_the_far_tail_has_its_mass():
    """23 million values: the count beyond 4.5 sigma is Poisson, false alarm below 1e-6."""
    beyond = sum(int((np.abs(noise_of(i)) > 4.5 * 63.75).sum()) for i in range(300))
    expected = 300 * GREY.size * 2 * stats.norm.sf(4.5)
    low, high = stats.poisson.ppf([5e-7, 1 - 5e-7], expected)
    assert low <= beyond <= high


@pytest.mark.parametrize("sigma", [0.1, 1.0, MAX_SIGMA])
def test_adding_is_exact_for_every_pixel_value(sigma):
    """x + noise keeps both: the grid residue is the noise's own, whatever the pixel."""
    every = np.arange(256, dtype=np.uint8).repeat(300).reshape(3, 160, 160)
    noisy = add_noise(every, NoiseLevel(sigma), SEED, Stage.ESTIMATE, 5)
    black = add_noise(np.zeros_like(every), NoiseLevel(sigma), SEED, Stage.ESTIMATE, 5)
    steps = noisy.astype(np.float64) * GRID
    np.testing.assert_array_equal(steps, np.rint(steps))
    np.testing.assert_array_equal(noisy.astype(np.float64) - black, every.astype(np.float64))


def test_the_clean_stage_adds_nothing():
    np.testing.assert_array_equal(noise_of(stage=Stage.CLEAN), 0)


def test_values_are_pinned_so_that_a_replay_years_later_agrees():
    found = noise_of(7)[0, 0, :4] * GRID
    np.testing.assert_array_equal(found, np.array(PINNED))


def test_pictures_of_one_request_have_seeds_of_their_own():
    seeds = {picture_seed(SEED, i) for i in range(100)}
    assert len(seeds) == 100
    assert picture_seed(SEED, 0) == SEED


PINNED = [-5245, 10701, 1669, -12147]
