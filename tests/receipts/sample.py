"""A receipt as the service makes it, of a certificate that is written out here."""

import json

import numpy as np

from service.receipts.receipt import with_receipts
from service.receipts.signing import Signer
from service.types import (
    Certificate,
    CertifiedRadius,
    Embedding,
    Fidelity,
    ModelInfo,
    Preprocessing,
    RadiusBound,
    Score,
    Space,
    Target,
    Tuning,
)

X = np.arange(3 * 4 * 5, dtype=np.uint8).reshape(3, 4, 5)
VALUES = np.array([0.6, 0.8], "<f4").tobytes()
HOW = Preprocessing((4, 5), None, "bicubic", (0.5, 0.4, 0.3), (0.1 + 0.2, 1.0, 2.0))
SPACE = Space(4, 5)
INFO = ModelInfo(
    "tiny",
    "sha256:" + "ab" * 32,
    2,
    (0.25,),
    SPACE,
    "cuda:0",
    "one; torch 1",
    "float32",
    "channels_last",
    8,
    2,
    1,
    Tuning("package"),
    (),
    False,
    {},
    False,
)
CERTIFICATE = Certificate(
    bounds=(
        RadiusBound(0.1, 0.9, 0.7, -1.0, "directional"),
        RadiusBound(0.2, -1.0, -1.0, -1.0, "none"),
    ),
    certified_radius=CertifiedRadius(0.5, 1 / 7),
    gaussian_robustness_score=Score(0.9, 0.8),
    fidelity=Fidelity(0.6, 0.6),
    sigma=0.25,
    confidence=0.999,
    selection_samples=10,
    estimation_samples=54,
    target=Target(0.1, 0.85),
    checkpoints=(48, 54, 60),
    stopped="target",
    space=SPACE,
    seed="0123456789abcdef" * 2,
    client_seed=False,
    statement="A sentence, naïve or not.",
)
SIGNER = Signer()


def text(signer=SIGNER):
    items = (Embedding(VALUES, CERTIFICATE),)
    (item,) = with_receipts(items, [X], INFO, HOW, signer, 1_800_000_000)
    return item.receipt


def fields():
    return json.loads(text())


def places(value, path=()):
    """Paths of all values that hold no others."""
    if isinstance(value, dict):
        return [p for name, inner in value.items() for p in places(inner, (*path, name))]
    if isinstance(value, list):
        return [p for i, inner in enumerate(value) for p in places(inner, (*path, i))]
    return [path]


def at(value, path):
    for part in path:
        value = value[part]
    return value


def put(value, path, new):
    at(value, path[:-1])[path[-1]] = new
    return value
