"""CPU lanes: workers side by side, each with rows of its own and, as a rule, one thread.

Two threads inside one convolution meet at a barrier in every layer, and stall together whenever
another process takes a core from one of them. Two lanes meet once a batch. Measured in
docs/performance.md: as fast on a quiet machine, twice as fast on a busy one.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from typing import TypeVar

import torch

T = TypeVar("T")


class Lanes:
    """A pool of `count` workers in which torch uses `threads` threads each."""

    def __init__(self, count: int, threads: int = 1) -> None:
        self.count = count
        self._pool = ThreadPoolExecutor(
            count, "fcs-lane", initializer=torch.set_num_threads, initargs=(threads,)
        )

    def run(self, work: Callable[[int, int], T], total: int, rows: int | None = None) -> list[T]:
        """`work(first, end)` over 0 ... total, `rows` at a time (None: an even share a lane).

        Returns:
            The results in order.

        Raises:
            Exception: the first that any piece raised, after all have ended.
        """
        size = rows or -(-total // self.count)
        futures = [
            self._pool.submit(work, first, min(first + size, total))
            for first in range(0, total, size)
        ]
        wait(futures)
        return [future.result() for future in futures]

    def close(self) -> None:
        """End the workers."""
        self._pool.shutdown()
