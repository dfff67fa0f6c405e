"""The settings: command line > environment (`FCS_...`) > file (TOML) > default, then frozen.

An unknown name, in the file or in the environment, stops the start: a misspelt limit that is
silently ignored is a limit that does not exist.
"""

import os
import re
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from platformdirs import user_cache_path, user_runtime_path
from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    ValidationError,
    model_validator,
)
from pydantic_settings import BaseSettings, SettingsConfigDict, SettingsError

from service.errors import ConfigurationError
from service.locations import origin
from service.types import DtypeName, MemoryFormat

PREFIX = "FCS_"
_LISTS = " (lists are JSON, e.g. '[0.125, 0.25]' or '[\"a-model\"]')"
CONFIG_VARIABLE = "FCS_CONFIG"
DEFAULT_MODEL = "efficientnet-lite0-160-psm"
DEFAULT_ENCODER = "efficientnet-lite0-160"  # which that model stands around
DEFAULT_ANSWERER = "lite0-smollm2"  # which is served beside it
MIB = 1024 * 1024
_DEVICES = re.compile(r"auto|(cpu|cuda(:\d+)?)(,(cpu|cuda(:\d+)?))*")
# The noise sampler's own distance from a true Gaussian stays below 1 - this, even for 100,000
# samples (docs/certificate.md, "Randomness").
MAX_CONFIDENCE = 0.99999


def _none_if_auto(value: Any) -> Any:
    return None if value == "auto" else value


# "auto", or absent, is None: it is chosen (service/models/arrangement.py).
AutoCount = Annotated[int | None, BeforeValidator(_none_if_auto)]


def _http_url(value: str) -> str:
    if not re.fullmatch(r"https?://[^/?#\s@]+(/[^?#\s]*)?", value):
        raise ValueError(
            "no URL of a collector: write http://host:4318 or https://host:4318; what it is to be"
            " sent beside the spans goes into OTEL_EXPORTER_OTLP_HEADERS"
        )
    return value


# Not shown when it is malformed: it may hold a password.
HttpUrl = Annotated[str, AfterValidator(_http_url)]


def _devices(value: str) -> str:
    if not _DEVICES.fullmatch(value):
        raise ValueError(
            f"{value!r} is no device: write auto, cpu, cuda, cuda:0, or several as in cuda:0,cuda:1"
        )
    return value


Devices = Annotated[str, AfterValidator(_devices)]


def _origin(value: str) -> str:
    origin(value)
    return value


FetchHost = Annotated[str, AfterValidator(_origin)]


class Settings(BaseSettings):
    """All settings of one process; immutable once made. Sizes in bytes, times in milliseconds."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, frozen=True, extra="forbid", validate_default=True
    )

    host: str = "127.0.0.1"
    port: int = Field(8000, ge=0, le=65535, description="REST port; 0 lets the system choose")
    grpc_port: int = Field(50051, ge=0, le=65535, description="gRPC port; 0 lets the system choose")
    probe_port: int | None = Field(
        None,
        ge=0,
        le=65535,
        description="plain HTTP for kubelets and Prometheus: /health/* and /metrics alone, without"
        " keys or TLS; None: none, 0 lets the system choose",
    )
    api_keys: Path | None = Field(
        None,
        description="TOML of the digests of API keys (`fcs keys new`), read again when it changes;"
        " None: open to everyone",
    )
    tls_certificate: Path | None = Field(
        None, description="PEM chain of both doors, read again when it changes; None: no TLS"
    )
    tls_key: Path | None = Field(None, description="PEM of its private key, not encrypted")
    tls_client_ca: Path | None = Field(
        None, description="PEM of the authorities whose certificate a client must show (mTLS)"
    )
    model: str = Field(DEFAULT_MODEL, description="package name, Hugging Face hub id or folder")
    extra_models: tuple[str, ...] | None = Field(
        None,
        description="more models, named by requests; None: beside the embedded default the embedded"
        " one that answers, beside others none",
    )
    model_store: Path = Path(__file__).resolve().parent.parent / "model_store"
    cache_dir: Path = Field(default_factory=lambda: user_cache_path("fcs-serve"))
    signing_key: Path | None = Field(
        None, description="PEM of the Ed25519 key of receipts; None: made once, in cache_dir/keys"
    )
    control_socket: Path | None = Field(
        None,
        description="Unix socket of `fcs models activate`; None: PORT.sock in the user's runtime"
        " folder",
    )
    allow_client_seed: bool = Field(False, description="accept `seed` in requests: for tests only")

    log_format: Literal["text", "json"] = Field(
        "text", description="of the log on standard error; json: one object a line"
    )
    otlp_endpoint: HttpUrl | None = Field(
        None,
        description="OpenTelemetry collector, OTLP over HTTP, e.g. http://collector:4318; without a"
        " path /v1/traces; None: no traces",
    )
    trace_ratio: float = Field(
        1.0, ge=0, le=1, description="share of traces that begin here; others follow their parent"
    )
    audit_log: Path | None = Field(
        None, description="JSON lines of all certificates issued; of one process; None: none"
    )
    audit_max_bytes: int = Field(
        64 * MIB, ge=4096, description="of one file of it; then it is numbered and a new one begun"
    )
    audit_files: int = Field(0, ge=0, description="numbered files that are kept; 0: all")
    audit_fsync: bool = Field(
        False, description="before each answer; false: at each new file and at the end"
    )

    device: Devices = Field(
        "auto",
        description="one engine each, e.g. cuda:0,cuda:1; auto: every CUDA device, else the CPU",
    )
    device_timeout_ms: int = Field(
        60_000, ge=100, description="a device call that takes longer is stuck"
    )
    dtype: Literal["auto", DtypeName] = "auto"
    memory_format: Literal["auto", MemoryFormat] = "auto"
    batch_size: AutoCount = Field(None, ge=1, le=1024, description="samples of one call")
    lanes: AutoCount = Field(None, ge=1, le=256, description="calls side by side on a CPU")
    threads: AutoCount = Field(None, ge=1, le=256, description="torch's own in each lane")
    tune: bool = Field(
        True,
        description="measure, once, what is `auto` of these five; false: the package's own",
    )

    max_body_bytes: int = Field(16 * MIB, ge=1024)
    max_pixels: int = Field(40_000_000, ge=1)
    max_pictures: int = Field(32, ge=1)
    max_samples: int = Field(100_000, ge=1)
    max_selection_samples: int = Field(10_000, ge=1)
    max_radii: int = Field(64, ge=1)
    max_answer_tokens: int = Field(1024, ge=1)
    max_prompt_tokens: int = Field(
        2048,
        ge=1,
        description="of text, and 64 characters each; while one is read, other answers wait",
    )
    max_answers: int = Field(8, ge=1, description="decoded together; more wait")
    max_pending_answers: int = Field(64, ge=1, description="accepted and not ended; over it: 429")
    max_choices: int = Field(32, ge=2, description="of a closed question")
    max_votes: int = Field(1000, ge=1, description="draws that vote on a closed answer")
    max_timeout_ms: int = Field(600_000, ge=1)
    max_requests: int = Field(
        256, ge=1, description="in work at a time, over both doors; over it: 429"
    )
    max_connections: int = Field(
        1024,
        ge=2,
        description="of each door; over it REST closes the one that was idle longest, gRPC the new",
    )
    max_pending_samples: int = Field(400_000, ge=1, description="over it: 429")
    max_pending_pictures: int = Field(256, ge=1, description="over it: 429")
    max_pending_bytes: int = Field(1024 * MIB, ge=1, description="host memory of tallies; 429")
    max_buffered_bytes: int = Field(256 * MIB, ge=1024, description="of all uploads; over it: 429")
    head_timeout_ms: int = Field(
        10_000, ge=1, description="longest wait for a TLS handshake, and for a request's head"
    )
    body_timeout_ms: int = Field(
        30_000,
        ge=1,
        description="longest wait for a request's body, and for a client that takes no more of its"
        " answer",
    )
    fetch_hosts: tuple[FetchHost, ...] = Field(
        (),
        description="hosts that pictures may be fetched from, e.g. images.example.com, one with a"
        " port, or http://... for plain HTTP; none: URLs are refused",
    )
    fetch_timeout_ms: int = Field(
        5_000, ge=1, description="longest wait for all pictures of a request that are fetched"
    )
    keep_alive_ms: int = Field(15_000, ge=1, description="longest silence of POST /embed/stream")
    max_stream_requests: int = Field(
        16, ge=1, description="of one gRPC stream, in work at a time; the next is not read before"
    )
    drain_ms: int = Field(30_000, ge=0, description="longest wait for accepted work at the end")

    default_sigma: float | None = Field(None, description="None: 0.25 if the model has it")
    default_radii: tuple[Annotated[float, Field(ge=0, allow_inf_nan=False)], ...] = Field(
        (0.0625, 0.125, 0.25), min_length=1
    )
    default_samples: int = Field(1000, ge=1)
    default_selection_samples: int = Field(100, ge=1)
    default_answer_samples: int = Field(8, ge=1, description="draws that the language is shown")
    default_answer_tokens: int = Field(128, ge=1)
    default_votes: int = Field(50, ge=1, description="on a closed answer")
    default_confidence: float = Field(0.999, gt=0, le=MAX_CONFIDENCE)
    default_target_shift: float | None = Field(
        0.5, ge=0, le=4, description="radius/sigma of the default target; None: no target"
    )
    default_target_bound: float = Field(0.9, gt=0, lt=1)
    default_timeout_ms: int = Field(30_000, ge=1)

    @property
    def models(self) -> tuple[str, ...]:
        """Every model that is served, the default first."""
        if self.extra_models is not None:
            return (self.model, *self.extra_models)
        return (self.model, *([DEFAULT_ANSWERER] if self.model == DEFAULT_MODEL else []))

    @model_validator(mode="after")
    def _defaults_within_limits(self) -> Self:
        """A plain request must never be refused for a number that it did not send."""
        for default, limit in (
            ("default_samples", "max_samples"),
            ("default_selection_samples", "max_selection_samples"),
            ("default_answer_samples", "max_selection_samples"),
            ("default_answer_tokens", "max_answer_tokens"),
            ("default_votes", "max_votes"),
        ):
            if getattr(self, default) > getattr(self, limit):
                raise ValueError(f"{default} is over {limit}: lower it too")
        if 0.5**self.default_votes >= 1 - self.default_confidence:
            raise ValueError("default_votes are too few to prove anything at default_confidence")
        if len(self.default_radii) > self.max_radii:
            raise ValueError("default_radii has more than max_radii entries")
        return self

    @model_validator(mode="after")
    def _doors(self) -> Self:
        """Nothing that was meant to protect is half set."""
        if (self.tls_certificate is None) != (self.tls_key is None):
            raise ValueError("tls_certificate and tls_key belong together: set both or neither")
        if self.tls_client_ca is not None and self.tls_certificate is None:
            raise ValueError("tls_client_ca needs tls_certificate and tls_key")
        if self.max_connections <= self.max_requests:
            raise ValueError("max_connections must be over max_requests")
        return self


def default_control_socket(port: int) -> Path:
    """Where the service on this REST port listens to its operator, unless the settings say."""
    return user_runtime_path("fcs-serve") / f"{port}.sock"


def encoder_settings(model: str | None) -> Settings:
    """Settings of a command that puts something around an encoder.

    Args:
        model: as named; None: as the settings say, but the default's encoder for the default.
    """
    settings = load_settings(model=model)
    if settings.model != DEFAULT_MODEL:
        return settings
    return settings.model_copy(update={"model": DEFAULT_ENCODER})


def load_settings(file: Path | None = None, **overrides: Any) -> Settings:
    """Settings from all sources; `overrides` (the command line) win, None among them is ignored.

    Raises:
        ConfigurationError: unknown name, unreadable file, or a value out of range.
    """
    known = set(Settings.model_fields)
    _refuse_unknown_environment(known)
    if file is None and (named := os.environ.get(CONFIG_VARIABLE)):
        file = Path(named)
    from_file = _read(file) if file is not None else {}
    if unknown := sorted(set(from_file) - known):
        raise ConfigurationError(f"{file}: unknown setting {unknown[0]!r}")
    in_environment = {name for name in known if PREFIX + name.upper() in os.environ}
    values = {name: value for name, value in from_file.items() if name not in in_environment}
    values |= {name: value for name, value in overrides.items() if value is not None}
    try:
        return Settings(**values)
    except ValidationError as error:
        first = error.errors()[0]
        where, reason = ".".join(str(part) for part in first["loc"]), first["msg"]
        if not where:
            raise ConfigurationError(reason.removeprefix("Value error, ")) from error
        hint = _LISTS if first["type"] in {"tuple_type", "list_type"} else ""
        raise ConfigurationError(f"setting {where!r}: {reason}{hint}") from error
    except SettingsError as error:
        raise ConfigurationError(f"{error}{_LISTS}") from error


def _refuse_unknown_environment(known: set[str]) -> None:
    allowed = {PREFIX + name.upper() for name in known} | {CONFIG_VARIABLE}
    ours = (name for name in os.environ if name.upper().startswith(PREFIX))
    if unknown := sorted(name for name in ours if name not in allowed):
        raise ConfigurationError(
            f"unknown environment variable {unknown[0]}; {PREFIX}<NAME>, in capitals, must be one"
            f" of: {', '.join(sorted(known))}"
        )


def _read(file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigurationError(f"cannot read the configuration file {file}: {error}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{file} is not valid TOML: {error}") from error
