"""The queued jobs of one model: who gets the room of a batch.

Jobs wait in tiers: by falling priority, and within one those that have not had their first slice
before those that have. The first tier gets the room, what it leaves the next, and so on; a newcomer
is served ahead of long work, in order of arrival, and then takes turns of one quantum (deficit
round-robin, in samples). An eighth of the room goes to the tier that has waited longest, so that
nobody starves.
"""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Generic

from service.scheduler.jobs import J, Slice, Slices

FIRST_SLICE = 64
# One in so many samples is for the tier that waited longest, batches for the model that did.
GUARANTEED = 8
_TURNS_PER_BATCH = 8


@dataclass(slots=True)
class _Turn(Generic[J]):
    """A queued job; `left` is its deficit: the samples left of its first slice, or of its turn."""

    job: J
    left: int
    queued: bool = True


@dataclass(slots=True)
class _Tier(Generic[J]):
    """Jobs that are served one after the other.

    Attributes:
        waiting_since: number of the batch that served it last, or before which it began to wait.
    """

    waiting_since: int
    turns: deque[_Turn[J]] = field(default_factory=deque)


class ModelQueue(Generic[J]):
    """The queue of one model.

    Args:
        capacity: samples of a batch, at least 1.

    Attributes:
        waiting_since: as a tier's.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.waiting_since = 0
        self._tiers: dict[tuple[int, bool], _Tier[J]] = {}  # by (-priority, had its first slice)
        self._turns: dict[J, _Turn[J]] = {}
        self._credit = 0  # of the guaranteed share, in samples times GUARANTEED

    def __len__(self) -> int:
        return len(self._turns)

    def __iter__(self) -> Iterator[J]:
        return iter(self._turns)

    def add(self, job: J, batch: int) -> None:
        """Queue a newcomer, or anew a job that starts over; `batch` is the last one's number."""
        self.remove(job)
        self._enter(_Turn(job, FIRST_SLICE), started=False, batch=batch)

    def resume(self, job: J, batch: int) -> None:
        """Queue a job behind those that run, unless it is queued."""
        if job not in self._turns:
            self._enter(_Turn(job, 0), started=True, batch=batch)

    def remove(self, job: J) -> None:
        """Take a job out, if it is queued."""
        if (turn := self._turns.pop(job, None)) is not None:
            turn.queued = False  # dropped from its tier when it comes to the front

    def settle(self) -> bool:
        """Forget the jobs in front that nobody waits for; whether work is left."""
        self._tiers = {rank: self._tiers[rank] for rank in sorted(self._tiers) if self._head(rank)}
        return bool(self._tiers)

    @property
    def priority(self) -> int:
        """The highest that waits; after `settle` found work."""
        return -next(iter(self._tiers))[0]

    @property
    def ready(self) -> int:
        """Samples that may be handed out now, counted up to the capacity."""
        found = 0
        for job in self._turns:
            if found >= self.capacity:
                break
            if not job.abandoned:
                found += job.remaining
        return min(found, self.capacity)

    def fill(self, batch: int) -> list[Slice[J]]:
        """Slices of batch number `batch`; after `settle` found work."""
        slices: Slices[J] = Slices()
        room = self.capacity
        guaranteed, self._credit = divmod(self._credit + room, GUARANTEED)
        share = guaranteed
        # Of tiers that wait equally long the last: the first gets the rest of the room anyway.
        waits = {rank: (batch - tier.waiting_since, rank) for rank, tier in self._tiers.items()}
        for rank in sorted(waits, key=waits.__getitem__, reverse=True):
            if share:
                given = self._serve(rank, share, batch, slices)
                self._tiers[rank].waiting_since = batch
                share -= given
                room -= given
        while self.settle() and room:
            rank = next(iter(self._tiers))
            given = self._serve(rank, room, batch, slices)
            # Scraps are no share: a tier that got no more goes on waiting for one.
            if given >= max(1, guaranteed):
                self._tiers[rank].waiting_since = batch
            room -= given
        return slices.all()

    def _enter(self, turn: _Turn[J], started: bool, batch: int) -> None:
        self._turns[turn.job] = turn
        tier = self._tiers.setdefault((-turn.job.priority, started), _Tier(batch))
        tier.turns.append(turn)

    def _head(self, rank: tuple[int, bool]) -> _Turn[J] | None:
        """The turn in front of a tier, after dropping those that need not be served."""
        turns = self._tiers[rank].turns
        while turns:
            turn = turns[0]
            if turn.queued and not turn.job.abandoned and turn.job.remaining:
                return turn
            turns.popleft()
            if turn.queued:
                del self._turns[turn.job]
        return None

    def _serve(self, rank: tuple[int, bool], limit: int, batch: int, slices: Slices[J]) -> int:
        """Hand out up to `limit` samples of a tier, turn by turn; how many there were."""
        quantum = max(1, self.capacity // _TURNS_PER_BATCH)
        turns = self._tiers[rank].turns
        given = 0
        while given < limit and (turn := self._head(rank)) is not None:
            turn.left = turn.left or quantum
            taken = slices.take(turn.job, min(turn.left, limit - given))
            given += taken
            turn.left -= taken
            if turn.job.remaining and not turn.left:
                turns.popleft()
                self._enter(turn, started=True, batch=batch)
        return given
