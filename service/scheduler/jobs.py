"""What the scheduler knows of a job, and what it makes of it."""

from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from service.types import Stage


class Schedulable(Protocol):
    """What the scheduler knows of a job; hashed by identity. Model and priority never change."""

    @property
    def model(self) -> str:
        """Name of the model its samples run through."""

    @property
    def priority(self) -> int:
        """Higher goes first."""

    @property
    def deadline(self) -> float:
        """Monotonic seconds after which it gets no more samples; infinity for none."""

    @property
    def abandoned(self) -> bool:
        """Nobody waits for it any more: it failed, or its caller left."""

    @property
    def remaining(self) -> int:
        """Samples that may be handed out now; at 0 the job leaves the queue."""

    def take(self, limit: int) -> list[tuple[Stage, int, int]]:
        """Hand out min(limit, remaining) samples as (stage, first index, count)."""


J = TypeVar("J", bound=Schedulable)


@dataclass(frozen=True, slots=True)
class Slice(Generic[J]):
    """Samples first ... first + count - 1 of one stage of one job."""

    job: J
    stage: Stage
    first: int
    count: int


class Slices(Generic[J]):
    """The slices of a batch in the making; a job's neighbouring samples are one slice."""

    def __init__(self) -> None:
        self._slices: list[Slice[J]] = []
        self._latest: dict[J, int] = {}

    def take(self, job: J, limit: int) -> int:
        """Take up to `limit` samples of a job; how many it handed out."""
        taken = 0
        for stage, first, count in job.take(limit):
            taken += count
            at = self._latest.get(job, len(self._slices))
            last = self._slices[at] if at < len(self._slices) else None
            if last is not None and last.stage is stage and last.first + last.count == first:
                self._slices[at] = Slice(job, stage, last.first, last.count + count)
            else:
                self._latest[job] = len(self._slices)
                self._slices.append(Slice(job, stage, first, count))
        return taken

    def all(self) -> list[Slice[J]]:
        """In the order in which jobs were first taken from."""
        return self._slices
