"""What every peer does with the requests of one batch: draw all their samples, then certify each.

The rows of all requests of a batch are drawn together, `rows` to an encoder call, so that batching
fills calls where it can. Noise, encoder and certificate are this project's own: a peer differs from
fcs-serve in how it serves, and in that it cannot stop early.
"""

import base64
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from service.bench.sampling import Features, evidence_of
from service.certificate.bounds import paper_bound
from service.certificate.certify import certify, cone_of
from service.certificate.intervals import betting_lower
from service.config import load_settings
from service.models.noise import SEED_BYTES, add_noise, told_sigma
from service.models.store import load_model
from service.pictures.decode import decode
from service.pictures.preprocess import preprocess
from service.types import NoiseLevel, Stage

Way = Literal["fixed", "paper"]
PATH = "/embed"
_PORT, _ARRANGEMENT = "PEER_PORT", "PEER_ARRANGEMENT"


@dataclass(frozen=True, slots=True)
class Arrangement:
    """How a peer is deployed.

    Attributes:
        workers: processes that compute (the plain server: threads).
        threads: torch's own in each of them.
        rows: samples of one encoder call.
        together: most requests of one batch.
        wait_ms: longest wait for a batch to fill.
    """

    workers: int
    threads: int
    rows: int
    together: int
    wait_ms: float = 10.0

    def environment(self, port: int) -> dict[str, str]:
        """What a peer's process reads with `configured`."""
        return {_PORT: str(port), _ARRANGEMENT: json.dumps(asdict(self))}


def configured() -> tuple[int, Arrangement]:
    """(port, arrangement) of this process."""
    return int(os.environ[_PORT]), Arrangement(**json.loads(os.environ[_ARRANGEMENT]))


@dataclass(frozen=True, slots=True)
class Ask:
    """One request.

    Attributes:
        inputs: the picture, base64.
        way: `fixed`: this project's bound about the served mean; `paper`: the published bound,
            which needs no selection sample.
        samples: estimation samples, all of which are drawn.
        selection: selection samples; unused by `paper`.
        sigma, radius, confidence: as in `EmbedRequest`.
    """

    inputs: str
    way: Way
    samples: int
    selection: int
    sigma: float
    radius: float
    confidence: float

    @property
    def stages(self) -> tuple[tuple[Stage, int], ...]:
        """Samples of each stage."""
        selection = self.selection if self.way == "fixed" else 0
        return (Stage.CLEAN, 1), (Stage.SELECT, selection), (Stage.ESTIMATE, self.samples)


class Sampler:
    """The model of one worker.

    Args:
        arrangement: names threads and rows; the model is that of the settings.
    """

    def __init__(self, arrangement: Arrangement) -> None:
        threadpool_limits(limits=1, user_api="blas")
        self._threads = arrangement.threads
        self._settings = load_settings(batch_size=arrangement.rows)
        self._model = load_model(self._settings.model, self._settings)

    def answer(self, requests: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """Answer the requests of one batch: embedding, bound and samples drawn of each.

        Raises:
            ServiceError: a picture that cannot be decoded; the whole batch fails with it.
        """
        torch.set_num_threads(self._threads)  # torch's setting is the calling thread's
        asks = [Ask(**request) for request in requests]
        return [_answer(ask, found) for ask, found in zip(asks, self._draw(asks), strict=True)]

    def _draw(self, asks: Sequence[Ask]) -> list[Features]:
        images = [self._image(ask.inputs) for ask in asks]
        seeds = [os.urandom(SEED_BYTES) for _ in asks]
        order = [
            (i, stage, index)
            for i, ask in enumerate(asks)
            for stage, count in ask.stages
            for index in range(count)
        ]
        features = np.empty((len(order), self._model.pipeline.dimensions), np.float32)
        rows = self._model.batch_size
        for first in range(0, len(order), rows):
            part = order[first : first + rows]
            levels = np.zeros((rows, *images[0].shape), np.float32)
            told = torch.zeros(rows)
            for row, (i, stage, index) in enumerate(part):
                noise = NoiseLevel(asks[i].sigma)
                levels[row] = add_noise(images[i], noise, seeds[i], stage, index)
                told[row] = told_sigma(noise, stage, index)
            found = self._model.pipeline(torch.from_numpy(levels), told).cpu().numpy()
            features[first : first + len(part)] = found[: len(part)]
        ends = np.cumsum([count for ask in asks for _, count in ask.stages])
        stages = iter(np.split(features, ends[:-1]))
        return [Features(next(stages), next(stages), next(stages)) for _ in asks]

    def _image(self, text: str) -> NDArray[np.uint8]:
        picture = decode(base64.b64decode(text), self._settings.max_pixels)
        return preprocess(picture, self._model.preprocessing)


def fixed_bound(features: Features, sigma: float, radius: float, alpha: float) -> float:
    """This project's bound from all estimation samples, looked at once with all of alpha."""
    bound, _ = cone_of(evidence_of(features), alpha).bound(radius / sigma)
    return bound


def published_bound(features: Features, sigma: float, radius: float, alpha: float) -> float:
    """The bound of arXiv:2601.16200 about f(x) from all estimation samples; -1 if vacuous."""
    cosines = (features.estimation @ features.clean[0]).astype(np.float64)
    score = betting_lower(np.clip((1 + cosines) / 2, 0, 1), alpha)
    return paper_bound(score, radius / sigma)


def _answer(ask: Ask, features: Features) -> dict[str, Any]:
    alpha = 1 - ask.confidence
    if ask.way == "fixed":  # the whole certificate, as fcs-serve makes it
        findings = certify(evidence_of(features), ask.sigma, (ask.radius,), alpha)
        bound, averaged = findings.bounds[0].bound, features.selection
    else:
        bound = published_bound(features, ask.sigma, ask.radius, alpha)
        averaged = features.estimation
    mean = averaged.mean(0)
    return {
        "embedding": (mean / max(float(np.linalg.norm(mean)), 1e-12)).tolist(),
        "bound": bound,
        "samples": len(features.selection) + len(features.estimation),
    }
