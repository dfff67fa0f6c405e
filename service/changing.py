"""What some files say, read again when they change; what cannot be read leaves what was known.

Looked at when asked for, at most once a second, through symbolic links: Kubernetes swaps those.
"""

import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Generic, TypeVar

from prometheus_client import Counter

from service.errors import ConfigurationError

_log = logging.getLogger(__name__)
_LOOK_EVERY_S = 1.0
OUTCOMES = ("succeeded", "failed")
T = TypeVar("T")
Stamp = tuple[tuple[int, ...] | None, ...]


class Changing(Generic[T]):
    """The newest good reading of files that belong together. Any thread may ask.

    Args:
        files: none is written here.
        read: makes a value of all of them, or raises `ConfigurationError`.
        reloads: counts later readings by their outcome.
        clock: monotonic seconds.

    Raises:
        ConfigurationError: the first reading; a later one is logged, once, and counted.
    """

    def __init__(
        self,
        files: tuple[Path, ...],
        read: Callable[[], T],
        reloads: Counter,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._files, self._read, self._reloads, self._clock = files, read, reloads, clock
        self._lock = threading.Lock()
        self._looked = clock()
        self._stamp = self._seen()
        self._value = read()

    def current(self) -> T:
        """The value; that of the files as they were at most a second ago, if it could be read."""
        with self._lock:
            now = self._clock()
            if now - self._looked >= _LOOK_EVERY_S:
                self._looked = now
                self._look()
            return self._value

    def _look(self) -> None:
        stamp = self._seen()
        if stamp == self._stamp:
            return
        names = ", ".join(str(file) for file in self._files)
        try:
            value = self._read()
        except ConfigurationError as error:
            if self._seen() != stamp:
                return  # half of a change: the next look sees the rest
            _log.error("%s; what was read before stays in force", error)
            self._reloads.labels(outcome="failed").inc()
        else:
            if self._seen() != stamp:
                return
            self._value = value
            _log.info("read again: %s", names)
            self._reloads.labels(outcome="succeeded").inc()
        self._stamp = stamp

    def _seen(self) -> Stamp:
        return tuple(_stamp(file) for file in self._files)


def _stamp(file: Path) -> tuple[int, ...] | None:
    try:
        found = file.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns
