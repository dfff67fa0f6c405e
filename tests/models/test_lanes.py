import subprocess
import sys
import threading
import time
import weakref
from functools import partial

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


def test_what_a_failed_call_had_made_is_free_though_its_error_is_kept(lanes):
    made = []

    def work():
        large = torch.zeros(10)
        made.append(weakref.ref(large))
        raise MemoryError("no room for the next")

    error = lanes.submit(work).exception(10)
    assert isinstance(error, MemoryError)
    assert error.__traceback__ is not None
    assert made[0]() is None


def test_lanes_work_side_by_side_in_the_order_of_submission(lanes):
    together = threading.Barrier(3)
    futures = [lanes.submit(lambda: together.wait(10)) for _ in range(3)]
    assert sorted(future.result(10) for future in futures) == [0, 1, 2]
    order = []
    for future in [lanes.submit(partial(order.append, i)) for i in range(3)]:
        future.result(10)
    assert sorted(order) == [0, 1, 2]


def test_a_cancelled_piece_is_not_run(lanes):
    free, ran = threading.Event(), []
    held = [lanes.submit(free.wait) for _ in range(3)]
    late = lanes.submit(lambda: ran.append(1))
    assert late.cancel()
    free.set()
    for future in held:
        future.result(10)
    lanes.submit(lambda: None).result(10)
    assert ran == []


def test_a_call_that_never_returns_does_not_hold_the_end_of_the_process():
    program = (
        "import threading; from service.models.lanes import Lanes;"
        "lanes = Lanes(1); lanes.submit(threading.Event().wait); lanes.close(0.1)"
    )
    subprocess.run([sys.executable, "-c", program], timeout=60, check=True)


def test_lanes_may_have_several_threads_each():
    pool = Lanes(1, threads=2)
    assert pool.submit(torch.get_num_threads).result(10) == 2
    pool.close()
