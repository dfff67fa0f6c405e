"""Request + limits + model -> a `SamplingPlan`, or the error that says what is allowed.

Both transports pass through here, so a limit has one value and one message.
"""

import math
import re
from typing import TypeVar

from service.certificate.stopping import checkpoints
from service.config import MAX_CONFIDENCE, Settings
from service.errors import invalid, shown
from service.profiles import BALANCED, NAMES, Profile, profile
from service.types import EmbedRequest, NoiseLevel, SamplingPlan, Target

MAX_PRIORITY = 100
_SIGMA = 0.25
_N = TypeVar("_N", int, float)
_SEED = re.compile(r"^[0-9a-f]{32}$")


def plan(
    request: EmbedRequest, sigmas: tuple[float, ...], settings: Settings, clean: int = 1
) -> SamplingPlan:
    """Resolve defaults and check every number.

    Args:
        request: as the transport received it.
        sigmas: noise levels of the model.
        settings: limits and defaults.
        clean: samples without noise that the model needs.

    Raises:
        ServiceError: invalid, naming the field and what is allowed.
    """
    _pictures(request, settings)
    chosen = _profile(request, settings)
    _whole("priority", request.priority, -MAX_PRIORITY, MAX_PRIORITY)
    selection = _default(request.selection_samples, chosen.selection)
    _whole("selection_samples", selection, 1, settings.max_selection_samples)
    samples = _default(request.samples, chosen.estimation)
    _whole("samples", samples, 1, settings.max_samples)
    confidence = _default(request.confidence, settings.default_confidence)
    if not 0 < confidence <= MAX_CONFIDENCE:
        raise invalid(
            f"confidence is {confidence}; allowed is 0 < confidence <= {MAX_CONFIDENCE}",
            "confidence",
        )
    if request.receipt and not request.certify:
        raise invalid("a receipt needs a certificate, but certify is false", "receipt")
    _seed(request.seed, settings)
    sigma = _sigma(request, sigmas, settings)
    target = _target(request, chosen.target(sigma))
    return SamplingPlan(
        noise=NoiseLevel(sigma),
        radii=_radii(request, target, settings),
        selection=selection,
        estimation=samples,
        confidence=confidence,
        certify=request.certify,
        priority=request.priority,
        target=target,
        checkpoints=(samples,) if target is None else checkpoints(samples),
        clean=clean,
    )


def default_sigma(sigmas: tuple[float, ...], settings: Settings) -> float:
    """Noise level of a request that names none: the operator's, else 0.25, else the first."""
    wanted = _SIGMA if settings.default_sigma is None else settings.default_sigma
    return wanted if wanted in sigmas else sigmas[0]


def timeout_s(request: EmbedRequest, settings: Settings) -> float:
    """Seconds the request may take.

    Raises:
        ServiceError: invalid, outside 1 ms ... the limit.
    """
    if request.timeout_s is None:
        return min(settings.default_timeout_ms, settings.max_timeout_ms) / 1000
    if not 0 < request.timeout_s <= settings.max_timeout_ms / 1000:
        raise invalid(
            f"timeout_ms is {request.timeout_s * 1000:g};"
            f" allowed are 1 to {settings.max_timeout_ms}",
            "timeout_ms",
        )
    return request.timeout_s


def _profile(request: EmbedRequest, settings: Settings) -> Profile:
    name = BALANCED if request.profile is None else request.profile
    if name not in NAMES:
        raise invalid(f"unknown profile {shown(name)}; known: {', '.join(NAMES)}", "profile")
    return profile(name, settings)


def _pictures(request: EmbedRequest, settings: Settings) -> None:
    count = len(request.images)
    if not 1 <= count <= settings.max_pictures:
        raise invalid(
            f"{count} pictures in one request; allowed are 1 to {settings.max_pictures}", "inputs"
        )


def _sigma(request: EmbedRequest, sigmas: tuple[float, ...], settings: Settings) -> float:
    if request.sigma is None:
        return default_sigma(sigmas, settings)
    if request.sigma not in sigmas:
        raise invalid(
            f"sigma {request.sigma} is not a noise level of this model;"
            f" allowed are {', '.join(f'{s:g}' for s in sigmas)}",
            "sigma",
        )
    return request.sigma


def _radii(request: EmbedRequest, target: Target | None, settings: Settings) -> tuple[float, ...]:
    """As asked, and the target's at the end where it is not among them: it is what was pursued."""
    radii = settings.default_radii if request.radii is None else request.radii
    extra = target is not None and target.radius in radii
    if not 1 <= len(radii) <= settings.max_radii + extra:
        raise invalid(f"{len(radii)} radii; allowed are 1 to {settings.max_radii}", "radii")
    for i, radius in enumerate(radii):
        if not (math.isfinite(radius) and radius >= 0):
            raise invalid(f"radius {radius} must be a finite number >= 0", f"radii[{i}]")
    if target is not None and target.radius not in radii:
        return (*radii, target.radius)
    return radii


def _target(request: EmbedRequest, default: Target | None) -> Target | None:
    target = request.target
    if not request.certify:
        if isinstance(target, Target):
            raise invalid("a target needs a certificate, but certify is false", "target")
        return None
    if target == "default":
        return default if request.samples is None else None
    if target is None:
        return None
    if not (math.isfinite(target.radius) and target.radius >= 0):
        raise invalid(f"radius {target.radius} must be a finite number >= 0", "target.radius")
    if not 0 < target.bound < 1:
        raise invalid(f"bound is {target.bound}; allowed is 0 < bound < 1", "target.bound")
    return target


def _seed(seed: str | None, settings: Settings) -> None:
    if seed is None:
        return
    if not settings.allow_client_seed:
        raise invalid(
            "a client may not choose the noise of a certificate; this service draws it in secret"
            " (operators can allow it for tests: --allow-client-seed)",
            "seed",
        )
    if not _SEED.fullmatch(seed):
        raise invalid("seed must be 32 lower-case hexadecimal digits", "seed")


def _whole(name: str, value: int, low: int, high: int) -> None:
    if not low <= value <= high:
        raise invalid(f"{name} is {value}; allowed are {low} to {high}", name)


def _default(value: _N | None, default: _N) -> _N:
    return default if value is None else value
