"""What the service tells of itself."""

from dataclasses import dataclass
from typing import Literal

from service.types.certificates import Space
from service.types.sampling import Target

DtypeName = Literal["float32", "bfloat16"]


MemoryFormat = Literal["channels_last", "contiguous"]


TuningSource = Literal["measured", "cached", "pinned", "package"]


@dataclass(frozen=True, slots=True)
class LabelSetInfo:
    """A named label set and how many labels it has."""

    name: str
    size: int


@dataclass(frozen=True, slots=True)
class Arrangement:
    """How a model's samples are computed. All but `lanes` may change a feature's last bits.

    Attributes:
        dtype: in which the encoder runs.
        memory_format: of its pixels and weights.
        batch_size: samples of one call of the pipeline, padded.
        lanes: calls that run side by side on a CPU, each drawing its own noise.
        threads: torch's own inside one call on a CPU.
    """

    dtype: DtypeName
    memory_format: MemoryFormat
    batch_size: int
    lanes: int
    threads: int


@dataclass(frozen=True, slots=True)
class Tuning:
    """Where an arrangement comes from.

    Attributes:
        source: "measured" at this start, "cached" from an earlier one, "pinned" by the settings, or
            the "package"'s own.
        ms_per_sample: measured median, noise and pipeline, all lanes together; None: not measured.
        note: why it is the package's own, or was not kept; empty where there is nothing to say.
    """

    source: TuningSource
    ms_per_sample: float | None = None
    note: str = ""


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """What a client needs to know of one loaded model.

    Attributes:
        platform: hardware and libraries; where they agree, replays agree to the last bit.
        dtype, memory_format, batch_size, lanes, threads: see `Arrangement`.
        psm: digests of purifier and mapper, where there is one.
        answers: whether it has a language that is shown the features.
    """

    name: str
    revision: str
    dimensions: int
    sigmas: tuple[float, ...]
    space: Space
    device: str
    platform: str
    dtype: str
    memory_format: str
    batch_size: int
    lanes: int
    threads: int
    tuning: Tuning
    label_sets: tuple[LabelSetInfo, ...]
    text_labels: bool
    psm: dict[str, str]
    answers: bool


@dataclass(frozen=True, slots=True)
class Defaults:
    """What absent request fields become."""

    sigma: float
    radii: tuple[float, ...]
    samples: int
    selection_samples: int
    confidence: float
    target: Target | None
    timeout_ms: int


@dataclass(frozen=True, slots=True)
class ServiceInfo:
    """What `/info` and gRPC `Info` tell; `public_key` is that of the receipts, hex.

    `profiles` holds what absent fields become under each name, `defaults` without a name.
    `devices` are those that share the work; each model's `device` is the first that works.
    """

    version: str
    default_model: str
    models: tuple[ModelInfo, ...]
    devices: tuple[str, ...]
    profiles: dict[str, Defaults]
    limits: dict[str, int]
    defaults: Defaults
    client_seed_allowed: bool
    public_key: str | None
