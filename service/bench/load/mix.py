"""What is asked: classes of requests, and mixes of them by weight."""

from collections.abc import Mapping
from dataclasses import dataclass

from service.errors import ConfigurationError


@dataclass(frozen=True, slots=True)
class RequestClass:
    """Requests alike in everything but their picture; None is the service's default.

    Attributes:
        selection: n0.
        samples: n; spent exactly unless `target`.
        target: whether the service's own target may stop it early.
    """

    name: str
    selection: int | None = None
    samples: int | None = None
    target: bool = False


CLASSES = {
    found.name: found
    for found in (
        RequestClass("tiny", selection=4, samples=4),
        RequestClass("short", selection=8, samples=24),
        RequestClass("default", target=True),
        RequestClass("long", samples=1000),
    )
}
MIXES: Mapping[str, Mapping[str, float]] = {
    "mixed": {"short": 6, "default": 3, "long": 1},
    "tiny": {"tiny": 1},
}


def parse_mix(text: str) -> dict[RequestClass, float]:
    """The name of a mix, or "class=weight,...", -> each class's share; shares add up to 1.

    Raises:
        ConfigurationError: an unknown class, or a weight that is not a positive number.
    """
    weights = dict(MIXES[text]) if text in MIXES else dict(map(_weight, text.split(",")))
    whole = sum(weights.values())
    return {CLASSES[name]: weight / whole for name, weight in weights.items()}


def _weight(text: str) -> tuple[str, float]:
    name, separator, number = (part.strip() for part in text.partition("="))
    try:
        weight = float(number) if separator else 1.0
    except ValueError:
        weight = 0.0
    if name not in CLASSES or not 0 < weight < float("inf"):
        raise ConfigurationError(
            f"{text!r} is no part of a mix; name one of {', '.join(MIXES)}, or classes with their"
            f" weights, as in short=3,long=1 (classes: {', '.join(CLASSES)})"
        )
    return name, weight
