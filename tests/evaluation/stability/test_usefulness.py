import numpy as np
import pytest

from service.evaluation.stability.usefulness import (
    confusion,
    neighbour_accuracy,
    prototypes,
    self_retrieval,
)


def turned(*degrees):
    angles = np.radians(degrees)
    return np.stack([np.cos(angles), np.sin(angles)], 1)


def test_a_picture_is_no_neighbour_of_itself():
    features = turned(0, 10, 90, 97, 20)
    assert neighbour_accuracy(features, ["a", "a", "b", "b", "a"]) == 1
    assert neighbour_accuracy(features, ["a", "b", "b", "b", "b"]) == pytest.approx(3 / 5)


def test_retrieval_asks_for_the_very_picture():
    gallery = turned(0, 10, 90)
    assert self_retrieval(gallery, gallery) == 1
    assert self_retrieval(turned(4, 6, 80), gallery) == 1
    assert self_retrieval(turned(6, 6, 80), gallery) == pytest.approx(2 / 3)


def test_confusion_leaves_the_picture_itself_out():
    assert confusion(turned(0, 90)) == pytest.approx(0, abs=1e-12)
    assert confusion(turned(0, 60, 60)) == pytest.approx((0.5 + 0.5 + 1) / 3)


def test_a_prototype_is_the_direction_of_its_labels_mean():
    found = prototypes(turned(0, 20, 90), ["x", "x", "y"])
    assert found.names == ("x", "y")
    np.testing.assert_allclose(found.vectors, turned(10, 90), atol=1e-12)
