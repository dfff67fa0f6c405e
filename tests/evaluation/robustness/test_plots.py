import dataclasses

import numpy as np
import pytest
from PIL import Image

from service.evaluation.robustness.plots import plot
from service.evaluation.robustness.report import summarise
from service.evaluation.robustness.sweep import SampleCell
from tests.evaluation.robustness.test_report import cell


@pytest.fixture
def cells():
    clean = cell(
        attack="none", knows="none", norm="none", epsilon=0.0, l2=0.0, contradicted=None,
        certified_radius=0.3, certified_right=True,
    )  # fmt: skip
    attacked = [cell(epsilon=size, l2=size, knows=knows) for size in (0.25, 2.0)
                for knows in ("encoder", "defence", "surrogates")]  # fmt: skip
    return [clean, *attacked, cell(norm="linf", epsilon=8.0, l2=5.0, bound=-1.0)]


def ink(file):
    with Image.open(file) as picture:
        return int((np.asarray(picture.convert("L")) < 200).sum())


def test_what_there_is_to_draw_is_drawn(cells, tmp_path):
    samples = [SampleCell("FS", n, "a", True, 0.1 * n) for n in (1, 4)]
    files = plot(summarise(cells, (0.1,)), cells, samples, tmp_path)
    assert [file.name for file in files] == ["curves.png", "certified.png", "samples.png"]
    assert all(ink(file) > 5000 for file in files)


def test_without_votes_or_sweep_there_is_nothing_of_them(cells, tmp_path):
    bare = [dataclasses.replace(one, certified_radius=None) for one in cells]
    files = plot(summarise(bare, ()), bare, [], tmp_path)
    assert [file.name for file in files] == ["curves.png"]


def test_what_never_got_a_bound_is_drawn_without_one(cells, tmp_path):
    nothing = [dataclasses.replace(one, bound=-1.0, certified_radius=0.0) for one in cells[:1]]
    attacked = [dataclasses.replace(one, bound=-1.0) for one in cells[1:]]
    assert len(plot(summarise([*nothing, *attacked], ()), nothing + attacked, [], tmp_path)) == 2
