"""One sentence a person can read, true to the certificate it stands in."""

import math

from service.types import Certificate, RadiusBound, Space

_CHOSEN_SEED = " The client chose the noise seed, so nobody else should rely on it."


def statement(
    bounds: tuple[RadiusBound, ...], confidence: float, space: Space, client_seed: bool
) -> str:
    """The promise at the largest asked radius that has one; figures rounded to the safe side."""
    holding = [bound for bound in bounds if bound.bound > 0]
    if not holding:
        sentence = "Nothing could be certified at the asked radii from these samples."
    else:
        best = max(holding, key=lambda bound: bound.radius)
        sentence = (
            f"With probability at least {confidence!r} over this service's own sampling, every"
            f" 8-bit {space.height}x{space.width} RGB picture within l2 distance {best.radius!r}"
            " of this one (values in [0, 1]) has a smoothed feature whose cosine with this"
            f" embedding is at least {math.floor(best.bound * 1e4) / 1e4:.4f}."
        )
    if client_seed:
        sentence += _CHOSEN_SEED
    return sentence


def label_statement(label: str | None, radius: float, labels: int, certificate: Certificate) -> str:
    """The promise about a label; None when abstaining."""
    space = certificate.space
    if label is None:
        sentence = (
            f"These samples do not settle which of the {labels} labels is nearest to the smoothed"
            " feature of this picture."
        )
    else:
        sentence = (
            f"With probability at least {certificate.confidence!r} over this service's own"
            f" sampling, every 8-bit {space.height}x{space.width} RGB picture within l2 distance"
            f" {_down(radius)} of this one (values in [0, 1]) has a smoothed"
            f" feature whose nearest label of the {labels} is '{label}'."
        )
    if certificate.client_seed:
        sentence += _CHOSEN_SEED
    return sentence


def vote_statement(
    answer: str, radius: float, pictures: int, confidence: float, space: Space, client_seed: bool
) -> str:
    """The promise about a closed answer; at radius 0 there is none."""
    one = pictures == 1
    if radius <= 0:
        sentence = (
            "These votes do not settle whether most noise makes the model choose"
            f" '{answer}': nothing is promised of the answer."
        )
    else:
        sentence = (
            f"With probability at least {confidence!r} over this service's own sampling, for"
            f" {'every' if one else 'any'} 8-bit {space.height}x{space.width} RGB"
            f" picture{'' if one else 's'} within l2 distance {_down(radius)} of"
            f" {'this one' if one else f'these {pictures}, taken together'} (values in [0, 1]) most"
            f" noise makes the model choose '{answer}', as it does here."
        )
    if client_seed:
        sentence += _CHOSEN_SEED
    return sentence


def _down(radius: float) -> str:
    """Four digits, rounded down."""
    if radius <= 0:
        return "0"
    unit = 10.0 ** (math.floor(math.log10(radius)) - 3)
    return f"{math.floor(radius / unit) * unit:.4g}"
