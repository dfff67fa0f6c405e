"""What accepted requests hold of the queue and of memory; over the limits, an honest refusal.

On the event loop only. A request larger than a whole limit is admitted when nothing else is.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from service.config import Settings
from service.errors import Kind, ServiceError
from service.rate import Rate


@dataclass(slots=True)
class Reservations:
    """The books of one core.

    Attributes:
        settings: limits of pending pictures, samples and bytes.
        pending_samples: samples accepted by the engine and not yet handed to the device.
        retired_per_second: samples that leave the queue, as measured.
        pictures: of requests that are not answered yet.
    """

    settings: Settings
    pending_samples: Callable[[], int]
    retired_per_second: Callable[[], float]
    pictures: int = 0
    _answered: Rate = field(default_factory=Rate)
    _last_answered: float = 0.0
    _bytes: int = 0
    _undecoded_samples: int = 0
    _deadlines: list[float] = field(default_factory=list)

    @contextmanager
    def request(self, samples: int, pictures: int, memory: int, deadline: float) -> Iterator[None]:
        """Hold a request's share of the queue, or refuse at once.

        Args:
            samples: of all its pictures.
            pictures: in it.
            memory: bytes that the statistics of its samples hold.
            deadline: when it ends at the latest, monotonic seconds.

        Raises:
            ServiceError: busy.
        """
        s = self.settings
        waiting = self.pending_samples() + self._undecoded_samples
        full = (
            self.pictures + pictures > s.max_pending_pictures
            or self._bytes + memory > s.max_pending_bytes
            or waiting + samples > s.max_pending_samples
        )
        if self.pictures and full:
            raise ServiceError(
                Kind.BUSY,
                f"no room for {samples} samples of {pictures} pictures ({memory} bytes) beside the"
                f" {waiting} samples of {self.pictures} pictures ({self._bytes} bytes) that wait"
                f" (limits: {s.max_pending_samples} samples, {s.max_pending_pictures} pictures,"
                f" {s.max_pending_bytes} bytes)",
                retry_after_s=self._seconds_until_room(waiting, samples, pictures, memory),
            )
        self.pictures += pictures
        self._bytes += memory
        self._deadlines.append(deadline)
        began = time.monotonic()
        try:
            yield
        finally:
            now = time.monotonic()
            self._answered.observe(pictures, now - max(began, self._last_answered))
            self._last_answered = now
            self._deadlines.remove(deadline)
            self.pictures -= pictures
            self._bytes -= memory

    @contextmanager
    def memory(self, needed: int) -> Iterator[None]:
        """Hold bytes beside those of the samples, or refuse at once.

        Raises:
            ServiceError: busy.
        """
        most = self.settings.max_pending_bytes
        if self._bytes and self._bytes + needed > most:
            raise ServiceError(
                Kind.BUSY,
                f"no room for {needed} bytes beside the {self._bytes} that wait (limit: {most})",
                retry_after_s=1.0,
            )
        self._bytes += needed
        try:
            yield
        finally:
            self._bytes -= needed

    @contextmanager
    def decoding(self, samples: int) -> Iterator[None]:
        """Count samples as waiting while the pictures they belong to are decoded."""
        self._undecoded_samples += samples
        try:
            yield
        finally:
            self._undecoded_samples -= samples

    def _seconds_until_room(self, waiting: int, samples: int, pictures: int, memory: int) -> float:
        """At the measured rates, but no later than the last waiting request's deadline.

        Samples leave as they are computed or spared, pictures and their bytes as they are answered.
        """
        s = self.settings
        samples_over = _excess(waiting, samples, s.max_pending_samples) * waiting
        pictures_over = self.pictures * max(
            _excess(self.pictures, pictures, s.max_pending_pictures),
            _excess(self._bytes, memory, s.max_pending_bytes),
        )
        by_rate = max(
            samples_over / max(self.retired_per_second(), 1e-9),
            pictures_over / max(self._answered.computed, 1e-9),
        )
        by_deadline = max(self._deadlines) - time.monotonic()
        return max(1.0, min(by_rate, by_deadline))


def _excess(held: float, wanted: float, limit: float) -> float:
    """Share of what is held that must go before what is wanted fits."""
    return min(1.0, max(0.0, held + wanted - limit) / held) if held else 0.0
