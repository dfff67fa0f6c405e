import numpy as np
import pytest
from PIL import Image

from service.training.curve import plot


@pytest.mark.parametrize("score", ["cos@0.25", "right@0.25"])
def test_the_scores_of_every_kind_of_run_are_drawn(tmp_path, score):
    """A history that differs in its scores alone gives another picture."""
    drawn = []
    for last in (0.5, 0.9):
        history = [{"step": i, "loss": 1.0, score: value} for i, value in ((1, 0.1), (2, last))]
        plot(history, tmp_path / "curve.png")
        drawn.append(np.asarray(Image.open(tmp_path / "curve.png")))
    assert drawn[0].shape == drawn[1].shape
    lower = drawn[0].shape[0] // 2
    assert (drawn[0][lower:] != drawn[1][lower:]).any()
