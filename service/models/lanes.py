"""Lanes: threads that compute side by side, each on calls of its own.

Two threads inside one convolution meet at a barrier in every layer, and stall together whenever
another process takes a core from one of them. Lanes never meet. Measured in docs/performance.md: as
fast on a quiet machine, twice as fast on a busy one.
"""

import queue
import threading
import traceback
from collections.abc import Callable
from concurrent.futures import Future, wait
from typing import Any, TypeVar

import torch

T = TypeVar("T")
_Task = tuple[Callable[[], Any], "Future[Any]"]


class Lanes:
    """`count` workers in which torch uses `threads` threads each.

    They are daemons: a device call that never returns must not hold the end of the process.
    """

    def __init__(self, count: int, threads: int = 1) -> None:
        self.count = count
        self._tasks: queue.SimpleQueue[_Task | None] = queue.SimpleQueue()
        self._workers = [
            threading.Thread(
                target=_work, args=(self._tasks, threads), name=f"fcs-lane-{i}", daemon=True
            )
            for i in range(count)
        ]
        for worker in self._workers:
            worker.start()

    def submit(self, work: Callable[[], T]) -> "Future[T]":
        """Run `work` in the next free lane, in the order of submission."""
        future: Future[T] = Future()
        self._tasks.put((work, future))
        return future

    def run(self, work: Callable[[int, int], T], total: int, rows: int | None = None) -> list[T]:
        """`work(first, end)` over 0 ... total, `rows` at a time (None: an even share a lane).

        Returns:
            The results in order.

        Raises:
            Exception: the first that any piece raised, after all have ended.
        """
        size = rows or -(-total // self.count)

        def piece(first: int) -> Callable[[], T]:
            return lambda: work(first, min(first + size, total))

        futures = [self.submit(piece(first)) for first in range(0, total, size)]
        wait(futures)
        return [future.result() for future in futures]

    def close(self, timeout_s: float | None = None) -> None:
        """End the workers after what was submitted; wait for each at most `timeout_s` (forever)."""
        for _ in self._workers:
            self._tasks.put(None)
        for worker in self._workers:
            worker.join(timeout_s)


def _work(tasks: "queue.SimpleQueue[_Task | None]", threads: int) -> None:
    torch.set_num_threads(threads)
    while (task := tasks.get()) is not None:
        work, future = task
        if not future.set_running_or_notify_cancel():
            continue
        try:
            future.set_result(work())
        except BaseException as error:  # whoever waits is told, as a pool would
            traceback.clear_frames(error.__traceback__)  # what they hold may be what memory lacks
            future.set_exception(error)
        del task, work, future  # an idle lane holds nobody's pictures
