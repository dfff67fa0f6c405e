from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.certificate.stopping import checkpoints


@given(st.integers(1, 200_000))
def test_checkpoints_rise_to_the_ceiling_in_steps_of_an_eighth(ceiling):
    points = checkpoints(ceiling)
    assert points[-1] == ceiling
    assert list(points) == sorted(set(points))
    for one, next_one in pairwise(points):
        assert next_one - one <= one / 8 + 1


@pytest.mark.parametrize("ceiling", [1, 47, 48])
def test_a_low_ceiling_has_one_checkpoint(ceiling):
    assert checkpoints(ceiling) == (ceiling,)
