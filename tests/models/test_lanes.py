import time

import pytest
import torch

from service.models.lanes import Lanes


@pytest.fixture
def lanes():
    pool = Lanes(3)
    yield pool
    pool.close()


@pytest.mark.parametrize(("total", "rows"), [(1, None), (7, None), (7, 2), (9, 3), (3, 100)])
def test_pieces_cover_every_row_once_and_in_order(lanes, total, rows):
    pieces = lanes.run(lambda first, end: list(range(first, end)), total, rows)
    assert [row for piece in pieces for row in piece] == list(range(total))


def test_torch_uses_one_thread_in_each_lane(lanes):
    assert set(lanes.run(lambda *_: torch.get_num_threads(), 3)) == {1}


def test_torch_uses_as_many_threads_in_each_lane_as_it_is_told():
    lanes = Lanes(2, threads=3)
    assert set(lanes.run(lambda *_: torch.get_num_threads(), 4)) == {3}
    lanes.close()


def test_all_pieces_have_ended_before_an_error_is_told(lanes):
    ended = []

    def work(first, _):
        if first == 0:
            raise ValueError("the first piece")
        time.sleep(0.05)
        ended.append(first)

    with pytest.raises(ValueError, match="first piece"):
        lanes.run(work, 3)
    assert sorted(ended) == [1, 2]
