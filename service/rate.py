"""How fast samples are computed, or come through, while there is work; the caller measures."""

import math
import threading

_MEMORY_S = 30.0  # of work: the rate of a minute ago says little


class Rate:
    """Samples a second of busy time, weighted towards the last half minute.

    Args:
        memory_s: busy seconds after which an observation counts 1/e.
    """

    def __init__(self, memory_s: float = _MEMORY_S) -> None:
        self._memory_s = memory_s
        self._lock = threading.Lock()
        self._seconds = self._computed = 0.0

    def observe(self, samples: int, seconds: float) -> None:
        """So many samples were computed in so many seconds of work."""
        with self._lock:
            kept = math.exp(-seconds / self._memory_s)
            self._seconds = self._seconds * kept + seconds
            self._computed = self._computed * kept + samples

    @property
    def computed(self) -> float:
        """Samples computed a second; 0 before the first observation."""
        with self._lock:
            return self._computed / self._seconds if self._seconds else 0.0
