"""What was spent within the last minute, exactly; the caller tells the time."""

from collections import deque
from dataclasses import dataclass

MINUTE_S = 60.0


@dataclass(slots=True)
class Spent:
    """One entry of a window."""

    at: float
    amount: int


class Window:
    """A moving window: at no time has more than the limit been spent in the minute before.

    On a monotonic clock: a jump of the wall clock neither opens nor closes a budget.
    """

    def __init__(self, seconds: float = MINUTE_S) -> None:
        self._seconds = seconds
        self._entries: deque[Spent] = deque()
        self._total = 0

    def wait_s(self, amount: int, limit: int, now: float) -> float:
        """Seconds until so much may be spent, if nothing else is; 0: now.

        Args:
            amount: at most the limit.
            limit: of what one window holds.
            now: seconds.
        """
        while self._entries and self._entries[0].at <= now - self._seconds:
            old = self._entries.popleft()
            self.give_back(old, old.amount)
        over = self._total + amount - limit
        wait = 0.0
        for entry in self._entries:
            if over <= 0:
                break
            over -= entry.amount
            wait = entry.at + self._seconds - now
        return wait

    def spend(self, amount: int, now: float) -> Spent:
        """Enter so much."""
        entry = Spent(now, amount)
        self._entries.append(entry)
        self._total += amount
        return entry

    def give_back(self, entry: Spent, amount: int) -> None:
        """Of an entry's amount, what was not used after all; nothing once the entry is old."""
        back = min(amount, entry.amount)
        entry.amount -= back
        self._total -= back
