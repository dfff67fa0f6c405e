"""The values that travel between floors: frozen, typed, units in every docstring.

Nothing here knows of torch, asyncio or a transport.
"""

from array import array
from dataclasses import dataclass
from enum import IntEnum
from typing import Literal

Method = Literal["distributional", "directional", "angular", "none"]
Stopped = Literal["target", "infeasible", "samples"]
Resample = Literal["nearest", "lanczos", "bilinear", "bicubic", "box", "hamming"]
DtypeName = Literal["float32", "bfloat16"]
MemoryFormat = Literal["channels_last", "contiguous"]
FinishReason = Literal["stop", "length"]
TuningSource = Literal["measured", "cached", "pinned", "package"]


class Stage(IntEnum):
    """What a noise sample is for; part of the noise counter, so the numbers never change."""

    CLEAN = 0  # no noise at all: the reference feature f(x)
    SELECT = 1  # the samples whose mean is the embedding
    ESTIMATE = 2  # fresh samples that only certify it


@dataclass(frozen=True, slots=True)
class NoiseLevel:
    """Gaussian noise of standard deviation `sigma` for each pixel and channel, RGB in [0, 1]."""

    sigma: float

    @property
    def sigma_levels(self) -> float:
        """The same standard deviation in 8-bit pixel levels, 0 to 255."""
        return 255.0 * self.sigma


@dataclass(frozen=True, slots=True)
class Preprocessing:
    """How a decoded RGB picture becomes x, the 8-bit tensor in which epsilon is measured.

    Attributes:
        resize: shortest edge in pixels (aspect kept), or exact (height, width), or None.
        crop: centre crop (height, width) in pixels after the resize, or None.
        resample: Pillow filter of the resize.
        mean, std: per-channel normalisation on RGB in [0, 1]. They belong to the pipeline (part of
            the certified function), never to x.
    """

    resize: int | tuple[int, int] | None
    crop: tuple[int, int] | None
    resample: Resample
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of x in pixels."""
        if self.crop is not None:
            return self.crop
        if isinstance(self.resize, tuple):
            return self.resize
        raise ValueError("preprocessing must end in one fixed size: name a crop or an exact resize")


@dataclass(frozen=True, slots=True)
class Target:
    """Sampling may stop as soon as `bound` is certified within the l2 distance `radius`."""

    radius: float
    bound: float


@dataclass(frozen=True, slots=True)
class EmbedRequest:
    """Pictures to embed, as a transport received them; None means "the default".

    Attributes:
        images: encoded pictures (PNG, JPEG, WebP, ...), one certificate each.
        sigma: noise level, RGB in [0, 1].
        radii: l2 attack sizes epsilon at which bounds are asked, same unit as sigma.
        samples: estimation samples n, or with a target their ceiling;
            selection_samples: n0, whose mean is the embedding.
        confidence: 1 - alpha of each picture's certificate.
        target: when to stop early; None spends exactly `samples`; "default" is the service's own
            target, or None where `samples` is given.
        receipt: sign a receipt of each certificate.
        timeout_s: seconds from arrival until the request fails with a deadline error.
        seed: hex noise seed; refused unless the operator allowed client seeds.
    """

    images: tuple[bytes, ...]
    model: str | None = None
    profile: str | None = None
    certify: bool = True
    sigma: float | None = None
    radii: tuple[float, ...] | None = None
    samples: int | None = None
    selection_samples: int | None = None
    confidence: float | None = None
    target: Target | Literal["default"] | None = "default"
    receipt: bool = False
    priority: int = 0
    timeout_s: float | None = None
    seed: str | None = None


@dataclass(frozen=True, slots=True)
class SamplingPlan:
    """A request's sampling, fully resolved and checked, fixed before any seed is drawn.

    Attributes:
        selection: n0; estimation: n, the ceiling when there is a target.
        target: when to stop early; None spends exactly `estimation`.
        checkpoints: rising numbers of estimation samples at which sampling may stop; the last is
            `estimation`.
        clean: samples without noise: f(x) and, where purifier or mapper stand around it, the bare
            encoder's own feature.
    """

    noise: NoiseLevel
    radii: tuple[float, ...]
    selection: int
    estimation: int
    confidence: float
    certify: bool
    priority: int
    target: Target | None
    checkpoints: tuple[int, ...]
    clean: int = 1

    @property
    def total(self) -> int:
        """Samples of one picture, at most."""
        return self.selection + (self.clean + self.estimation if self.certify else 0)


@dataclass(frozen=True, slots=True)
class RadiusBound:
    """What holds within an l2 distance `radius` of the picture; -1 wherever nothing is certified.

    Attributes:
        radius: epsilon, l2 over all pixels and channels, RGB in [0, 1].
        bound: lower bound on cos(embedding, F(x')) (docs/certificate.md, "Three angles").
        served_bound: lower bound on cos(embedding(x), embedding(x')), two served Monte-Carlo means.
        paper: lower bound on cos(f(x), F(x')) by arXiv:2601.16200, at an alpha of its own.
        method: which argument gave `bound`.
    """

    radius: float
    bound: float
    served_bound: float
    paper: float
    method: Method


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


@dataclass(frozen=True, slots=True)
class CertifiedRadius:
    """The largest epsilon at which `bound` is still at least `threshold`; 0 if it never is."""

    threshold: float
    radius: float


@dataclass(frozen=True, slots=True)
class Score:
    """Gaussian robustness score E[(1 + cos(f(x + noise), f(x))) / 2]: sample mean, lower bound."""

    estimate: float
    lower: float


@dataclass(frozen=True, slots=True)
class Fidelity:
    """Cosine of the embedding with the noise-free feature of the pipeline / of the bare encoder."""

    pipeline: float
    encoder: float


@dataclass(frozen=True, slots=True)
class Space:
    """Where epsilon and sigma are measured: the encoder's 8-bit RGB input, as [0, 1] values."""

    height: int
    width: int
    channels: str = "RGB"
    range: tuple[int, int] = (0, 1)
    norm: str = "l2"


@dataclass(frozen=True, slots=True)
class Certificate:
    """One picture's certificate; what it promises is written in docs/certificate.md."""

    bounds: tuple[RadiusBound, ...]
    certified_radius: CertifiedRadius
    gaussian_robustness_score: Score
    fidelity: Fidelity
    sigma: float
    confidence: float
    selection_samples: int
    estimation_samples: int
    target: Target | None
    checkpoints: tuple[int, ...]
    stopped: Stopped
    space: Space
    seed: str
    client_seed: bool
    statement: str


@dataclass(frozen=True, slots=True)
class Timing:
    """Milliseconds: waiting for the device, device time of these samples, statistics, whole."""

    queue_ms: float
    device_ms: float
    statistics_ms: float
    total_ms: float


@dataclass(frozen=True, slots=True)
class Embedding:
    """One picture's answer: unit-norm float32 values, little-endian bytes, and the certificate.

    Attributes:
        receipt: the signed receipt, JSON text, where one was asked for.
    """

    values: bytes
    certificate: Certificate | None
    receipt: str | None = None


@dataclass(frozen=True, slots=True)
class EmbedResult:
    """The answer to an `EmbedRequest`, items in the order of its pictures."""

    model: str
    revision: str
    data: tuple[Embedding, ...]
    timing: Timing


@dataclass(frozen=True, slots=True)
class Reference:
    """A vector a picture may be nearest to: doubles of the model's length, any norm but zero."""

    id: str
    embedding: "array[float]"


@dataclass(frozen=True, slots=True)
class ClassifyRequest:
    """Pictures to label; exactly one of `labels`, `label_set` and `references` is given.

    Attributes:
        embed: pictures and sampling. The default target is not used: all `samples` serve the label.
        labels: texts, for a model with a text tower.
        template: what the texts are put into, at its one "{}"; None: "a photo of a {}."
        label_set: name of a set kept with the model.
        references: the label is then the id of the nearest one.
    """

    embed: EmbedRequest
    labels: tuple[str, ...] | None = None
    template: str | None = None
    label_set: str | None = None
    references: tuple[Reference, ...] | None = None


@dataclass(frozen=True, slots=True)
class Candidate:
    """A label and the cosine of the embedding with its direction."""

    label: str
    score: float


@dataclass(frozen=True, slots=True)
class Classification:
    """One picture's label.

    Attributes:
        label: None when abstaining.
        score: of the best candidate, abstained or not.
        certified_radius: l2 distance within which F(x') provably keeps the label, at the confidence
            of the certificate; 0 when abstaining.
        candidates: the five nearest labels, best first.
        certificate: of the embedding.
        statement: one sentence a person can read.
    """

    label: str | None
    score: float
    certified_radius: float
    abstained: bool
    candidates: tuple[Candidate, ...]
    certificate: Certificate
    statement: str


@dataclass(frozen=True, slots=True)
class ClassifyResult:
    """The answer to a `ClassifyRequest`, items in the order of its pictures."""

    model: str
    revision: str
    data: tuple[Classification, ...]
    timing: Timing


@dataclass(frozen=True, slots=True)
class Message:
    """One of a conversation: its texts, and None in the place of each picture.

    Attributes:
        role: system, user or assistant.
    """

    role: str
    parts: tuple[str | None, ...]


@dataclass(frozen=True, slots=True)
class Generation:
    """How the tokens of an answer are chosen.

    Attributes:
        max_tokens: of the answer.
        temperature: 0 takes the likeliest token each time.
        top_p: probability of the nucleus that tokens are drawn from.
        seed: of the drawing; no part of any certificate.
        stop: texts that end the answer, left out of it.
    """

    max_tokens: int
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0
    stop: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class AnswerRequest:
    """A conversation about pictures; None means "the default".

    Attributes:
        embed: the pictures, in the order of their places in the messages, and their sampling;
            `selection_samples` are the draws whose mean the language is shown (answer_samples).
        messages: the last is the user's.
        max_tokens, temperature, top_p, stop: as in `Generation`.
        generation_seed: of the drawing of tokens; None: a new one each time.
        stability_draws: further answers, each from features of its own draws, to compare with it.
        choices: the only answers there are; then the answer is one of them, voted on.
        votes: draws that vote on it, each alone.
    """

    embed: EmbedRequest
    messages: tuple[Message, ...]
    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    stop: tuple[str, ...] = ()
    generation_seed: int | None = None
    stability_draws: int = 0
    choices: tuple[str, ...] = ()
    votes: int | None = None


@dataclass(frozen=True, slots=True)
class Choice:
    """One of the answers there are, and how many draws voted for it."""

    text: str
    votes: int


@dataclass(frozen=True, slots=True)
class Vote:
    """What the votes of further draws prove of a closed answer (docs/answers.md, "Closed answers").

    Attributes:
        choices: all of them, in the order of the request.
        draws: of the pictures, each of which voted once.
        agreeing: that voted for the answer.
        lower: lower confidence bound on the share of all noise that does.
        certified_radius: l2 distance, over all pictures together, within which most noise provably
            goes on voting for the answer; 0 when abstaining.
        abstained: not even at the pictures themselves is it certain that most noise does.
        confidence: of `lower` and the radius, on its own.
        statement: one sentence a person can read.
    """

    choices: tuple[Choice, ...]
    draws: int
    agreeing: int
    lower: float
    certified_radius: float
    abstained: bool
    confidence: float
    statement: str


@dataclass(frozen=True, slots=True)
class Stability:
    """How many further answers said the same, letter case and punctuation aside.

    Attributes:
        draws: further answers, each from features of its own draws of the same pictures.
        agreeing: of them.
        lower: lower confidence bound on the chance that the next one agrees.
        confidence: of that bound.
    """

    draws: int
    agreeing: int
    lower: float
    confidence: float


@dataclass(frozen=True, slots=True)
class Said:
    """A new piece of an answer's text."""

    text: str


@dataclass(frozen=True, slots=True)
class JointBound:
    """What holds for all pictures of a request together, each within `radius` of its own.

    Attributes:
        bound: lower bound on the cosine of everything the language was shown with what it would be
            shown, each picture's features at the scale they have here.
    """

    radius: float
    bound: float


@dataclass(frozen=True, slots=True)
class AnswerResult:
    """The answer to an `AnswerRequest`.

    Attributes:
        certificates: of what the language was shown of each picture, in order; empty where none
            was asked.
        joint: bounds for all pictures together, at `joint_confidence`; empty for a single one.
        statement: what the certificates speak of, and what not.
        stability: of the answer over further draws; None where none were asked.
        vote: on a closed answer; None where no choices were given.
        prompt_tokens: those of the pictures among them.
    """

    model: str
    revision: str
    answer: str
    finish: FinishReason
    prompt_tokens: int
    answer_tokens: int
    certificates: tuple[Certificate, ...]
    joint: tuple[JointBound, ...]
    joint_confidence: float | None
    stability: Stability | None
    vote: Vote | None
    statement: str
    timing: Timing


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
