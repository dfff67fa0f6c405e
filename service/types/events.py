"""What is told of a request while it is under way."""

from dataclasses import dataclass

from service.types.certificates import Stopped
from service.types.sampling import Target


@dataclass(frozen=True, slots=True)
class BoundSoFar:
    """Lower bound on cos(embedding, F(x')) within an l2 distance `radius`, while sampling goes on.

    -1 where nothing is certified yet.
    """

    radius: float
    bound: float


@dataclass(frozen=True, slots=True)
class Look:
    """What the samples certify at a checkpoint (docs/certificate.md, "Bounds so far").

    Attributes:
        samples: estimation samples looked at.
        bounds: the best of all looks up to this one, in the order of the plan's radii.
        reached: whether these bounds certify the target. The pursuit, which ends the sampling, may
            still go on.
    """

    samples: int
    bounds: tuple[BoundSoFar, ...]
    reached: bool


@dataclass(frozen=True, slots=True)
class Accepted:
    """A request was admitted, its pictures were decoded, and its work is under way."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A look at one picture of a request.

    Attributes:
        index: of the picture.
        selection: samples drawn for the embedding.
        estimation: samples that certify it so far.
        bounds: as in `Look`.
        target: what ends the sampling early; None where all samples are spent.
        reached: whether the target is certified; None without one.
        stopped: why sampling ended here; None while it goes on.
    """

    index: int
    selection: int
    estimation: int
    bounds: tuple[BoundSoFar, ...]
    target: Target | None
    reached: bool | None
    stopped: Stopped | None


@dataclass(frozen=True, slots=True)
class Drawn:
    """How many samples of one picture were drawn, of how many; it certifies nothing yet."""

    index: int
    selection: int
    estimation: int
    planned_selection: int
    planned_estimation: int


Event = Accepted | Checkpoint | Drawn
