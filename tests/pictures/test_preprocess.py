import numpy as np
import pytest
from PIL import Image

from service.errors import ServiceError
from service.pictures.preprocess import check_size, preprocess
from service.types import Preprocessing

LIMIT = 40_000_000
STATISTICS = ((0.5,) * 3, (0.5,) * 3)


def how(resize, crop):
    return Preprocessing(resize, crop, "bicubic", *STATISTICS)


@pytest.mark.parametrize("size", [(300, 200), (200, 300), (16, 16), (161, 160), (1000, 31)])
def test_every_picture_ends_in_the_size_of_the_model(size):
    found = preprocess(Image.new("RGB", size, "red"), how(182, (160, 160)))
    assert found.shape == (3, 160, 160)
    assert found.dtype == np.uint8
    assert (found == np.array([255, 0, 0], np.uint8)[:, None, None]).all()


def test_an_exact_resize_ignores_the_aspect():
    assert preprocess(Image.new("RGB", (300, 200)), how((24, 32), None)).shape == (3, 24, 32)


def test_a_crop_larger_than_the_picture_is_padded_with_black():
    found = preprocess(Image.new("RGB", (10, 10), "white"), how(None, (20, 20)))
    assert found.shape == (3, 20, 20)
    assert found[:, 5:15, 5:15].min() == 255
    assert found[:, :5].max() == 0


def test_extreme_aspect_ratios_are_refused_before_they_are_resized():
    with pytest.raises(ServiceError, match="too long and thin"):
        check_size((4_000_000, 1), how(182, (160, 160)), LIMIT)


def test_ordinary_aspect_ratios_pass():
    check_size((10, 4000), how(182, (160, 160)), LIMIT)
    check_size((4_000_000, 1), how((32, 32), None), LIMIT)


def test_a_preprocessing_without_a_fixed_size_has_no_space():
    with pytest.raises(ValueError, match="fixed size"):
        _ = how(182, None).size
