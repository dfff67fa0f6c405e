"""When accepted requests will end, and with them when there will be room for another.

Devices are shared evenly, so requests that came together also leave together: until then each holds
its pictures and bytes, and one that may stop early its samples too, although it will not draw most
of them.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from service.rate import Rate

# Samples of a picture that may stop early: before any has, and how much a later one counts.
_FIRST_SPENT = 200.0
_WEIGHT = 0.2
# Times the mean is more than most of them take; at the mean itself half would be too early.
_MOST = 1.25
# Of that number, what is expected of a picture that has drawn as many already.
_AT_LEAST = 1 / 8
# From the last sample to the answer: the last look and the encoding.
_ANSWER_S = 0.3


@dataclass(slots=True, eq=False)
class Held:
    """What one request holds until it is answered.

    Attributes:
        samples: of all its pictures; at most, if it stops early.
        memory: bytes.
        deadline: when it ends at the latest, monotonic seconds.
        stops_early: it may end before all samples are drawn.
        party: whose part it is, where a request has several.
        left: samples that it may still draw; None while it is decoded: all.
        spent: samples that it took, told at its end.
        answered: it ended with an answer.
    """

    samples: int
    pictures: int
    memory: int
    deadline: float
    stops_early: bool
    party: object = None
    left: Callable[[], int] | None = None
    spent: int = 0
    answered: bool = False

    @property
    def outstanding(self) -> int:
        """Samples that it holds of the queue."""
        return self.samples if self.left is None else self.left()


@dataclass(frozen=True, slots=True)
class Amount:
    """Of the queue and of memory; negative where more is held than allowed."""

    samples: float
    pictures: int
    memory: int


@dataclass(frozen=True, slots=True)
class _End:
    """Of a request: in how many seconds, and how fast its samples leave the queue until then.

    With a rate of 0 they leave at the end, all at once.
    """

    at: float
    drawn_per_s: float
    held: Held


class Forecast:
    """Ends of requests, at the rate at which samples of earlier ones came through.

    Args:
        computed_per_second: samples that the devices compute, as measured; it serves until the
            first request has ended. The rate of ended ones is lower: it has looks, decoding and
            everything else in it.
    """

    def __init__(self, computed_per_second: Callable[[], float]) -> None:
        self._computed = computed_per_second
        self._through = Rate()
        self._spent = _FIRST_SPENT  # by a picture that may stop early

    def learn(self, ended: Held, seconds: float) -> None:
        """A sampled request ended, so many seconds of work after the one before it."""
        self._through.observe(ended.spent, seconds)
        if ended.stops_early and ended.answered:
            self._spent += _WEIGHT * (ended.spent / ended.pictures - self._spent)

    def room_s(self, held: Sequence[Held], free: Amount, wanted: Amount, now: float) -> float:
        """Seconds until what is wanted fits; until the last end if nothing else makes room.

        Args:
            held: by the accepted requests.
            free: now.
            wanted: by the one that found no room.
            now: monotonic seconds.
        """
        samples, pictures, memory = free.samples, free.pictures, free.memory
        ends = self._ends(held, now)
        drawn_per_s = sum(end.drawn_per_s for end in ends)
        at = 0.0
        for end in ends:
            missing = wanted.samples - samples
            span = end.at - at
            if pictures >= wanted.pictures and memory >= wanted.memory:
                if missing <= 0:
                    return at
                if missing <= drawn_per_s * span:
                    return at + missing / drawn_per_s
            samples += drawn_per_s * span + (0 if end.drawn_per_s else end.held.outstanding)
            drawn_per_s -= end.drawn_per_s
            pictures += end.held.pictures
            memory += end.held.memory
            at = end.at
        return at

    def _ends(self, held: Sequence[Held], now: float) -> list[_End]:
        """When each request is expected to end, in that order.

        Every picture gets the same share of the rate: the one with the least work ends first.
        """
        rate = max(self._through.computed or self._computed(), 1e-9)
        by_work = sorted((self._work(one) / one.pictures, i) for i, one in enumerate(held))
        ends = []
        sharing, done, at = sum(one.pictures for one in held), 0.0, 0.0
        for work, i in by_work:
            one = held[i]
            at += (work - done) * sharing / rate
            done, sharing = work, sharing - one.pictures
            last = max(0.0, one.deadline - now)
            end = min(at + _ANSWER_S, last)
            steady = at <= last and not one.stops_early
            ends.append(_End(end, one.outstanding / max(end, 1e-9) if steady else 0.0, one))
        return sorted(ends, key=lambda end: end.at)

    def _work(self, one: Held) -> float:
        """Samples that it will still draw, as far as can be known."""
        left = one.outstanding
        if not one.stops_early:
            return left
        expected = _MOST * self._spent * one.pictures
        return min(left, max(expected - (one.samples - left), _AT_LEAST * expected))
