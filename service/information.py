"""What the service tells of itself: models, limits, and what absent fields become."""

from service import __version__, classify
from service.admission import default_sigma
from service.config import Settings
from service.profiles import BALANCED, Profile, profiles
from service.types import Defaults, ModelInfo, ServiceInfo


def service_info(
    settings: Settings,
    models: tuple[ModelInfo, ...],
    devices: tuple[str, ...],
    public_key: str | None,
) -> ServiceInfo:
    """For `GET /info` and gRPC `Info`.

    Args:
        settings: of the service.
        models: at least one; the default first.
        devices: that share the work.
        public_key: of the receipts, hex.
    """
    s, default = settings, models[0]
    sigma = default_sigma(default.sigmas, s)
    told = {name: _defaults(one, sigma, s) for name, one in profiles(s)}
    return ServiceInfo(
        version=__version__,
        default_model=default.name,
        models=models,
        devices=devices,
        profiles=told,
        limits={
            "pictures": s.max_pictures,
            "samples": s.max_samples,
            "selection_samples": s.max_selection_samples,
            "radii": s.max_radii,
            "labels": classify.MAX_LABELS,
            "references": classify.MAX_REFERENCES,
            "timeout_ms": s.max_timeout_ms,
            "body_bytes": s.max_body_bytes,
            "pixels": s.max_pixels,
            "pending_samples": s.max_pending_samples,
            "pending_pictures": s.max_pending_pictures,
            "pending_bytes": s.max_pending_bytes,
            "stream_requests": s.max_stream_requests,
            "answer_tokens": s.max_answer_tokens,
            "choices": s.max_choices,
            "votes": min(s.max_votes, s.max_selection_samples),
            "prompt_tokens": s.max_prompt_tokens,
            "pending_answers": s.max_pending_answers,
        },
        defaults=told[BALANCED],
        client_seed_allowed=s.allow_client_seed,
        public_key=public_key,
    )


def _defaults(profile: Profile, sigma: float, settings: Settings) -> Defaults:
    return Defaults(
        sigma=sigma,
        radii=settings.default_radii,
        samples=profile.estimation,
        selection_samples=profile.selection,
        confidence=settings.default_confidence,
        target=profile.target(sigma),
        timeout_ms=settings.default_timeout_ms,
    )
