"""How long the first token of an uncertified answer takes, beside what it cannot do without.

served     a request to the service's core, to the first piece of its text
unwrapped  the model as published: the picture's tokens, without noise or purifier, and its prompt
samples    one call of the pipeline with as many noisy samples as the language is shown the mean of

The service owes at most one and a half times unwrapped and samples together. All three are measured
in turn, in every round.
"""

import asyncio
import json
import statistics
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track
from rich.table import Table

from service.config import Settings
from service.core import Core
from service.errors import ConfigurationError
from service.models.answerer.answerer import Answerer
from service.models.lanes import Lanes
from service.models.loaded import LoadedModel
from service.models.sampler import Draw, make_sampler
from service.pictures.decode import decode
from service.pictures.preprocess import preprocess
from service.types import (
    AnswerRequest,
    EmbedRequest,
    Event,
    Generation,
    Message,
    NoiseLevel,
    Said,
    Stage,
)

_QUESTION = "What kind of thing is this?"
_TOKENS = 4  # of each answer: its first piece may take two
_WARM_UP = 3


@dataclass(frozen=True, slots=True)
class FirstToken:
    """Medians in milliseconds of one round each."""

    served: float
    unwrapped: float
    samples: float

    @property
    def ratio(self) -> float:
        """Of what is served to what it cannot do without."""
        return self.served / (self.unwrapped + self.samples)


def run(settings: Settings, pictures: Sequence[Path], samples: int, rounds: int) -> None:
    """Measure; print the table, then one JSON line.

    Args:
        settings: of the model that answers.
        pictures: asked about in turn.
        samples: that the language is shown the mean of; at most the model's batch size.
        rounds: of all three, after a few to warm up.

    Raises:
        ConfigurationError: a model without a language, or more samples than one call takes.
    """
    files = [picture.read_bytes() for picture in pictures]
    found = asyncio.run(_measure(settings, files, samples, rounds))
    table = Table(title=f"first token, {samples} answer samples, medians of {rounds} rounds")
    for heading in ("", "ms"):
        table.add_column(heading)
    for name, value in asdict(found).items():
        table.add_row(name, f"{value:.1f}")
    table.add_row("served / (unwrapped + samples)", f"{found.ratio:.2f}")
    Console(width=100).print(table)
    told = {"bench": "first-token", "answer_samples": samples, "rounds": rounds, **asdict(found)}
    print(json.dumps({**told, "ratio": found.ratio}))  # noqa: T201


async def _measure(
    settings: Settings, files: Sequence[bytes], samples: int, rounds: int
) -> FirstToken:
    core = Core(settings)
    await core.start()
    try:
        model = next(iter(core.loaded.values()))
        if model.answerer is None:
            raise ConfigurationError(f"{model.name} has no language to answer in")
        if samples > model.batch_size:
            raise ConfigurationError(f"one call takes at most {model.batch_size} samples")
        bare = _Bare(model, model.answerer, settings.max_pixels)
        times: dict[str, list[float]] = {"served": [], "unwrapped": [], "samples": []}
        with closing(Lanes(1, model.threads)) as lane:
            for i in track(range(_WARM_UP + rounds), console=Console(stderr=True)):
                file = files[i % len(files)]
                times["served"].append(await _served(core, file, samples))
                for name, part in (
                    ("unwrapped", lambda file=file: bare.first_token(file)),
                    ("samples", lambda file=file: bare.draw(file, samples)),
                ):
                    spent = asyncio.wrap_future(lane.submit(part))
                    times[name].append(await spent)
        return FirstToken(**{name: statistics.median(t[_WARM_UP:]) for name, t in times.items()})
    finally:
        await core.drain()


async def _served(core: Core, file: bytes, samples: int) -> float:
    """Milliseconds to the first piece of text."""
    request = AnswerRequest(
        EmbedRequest((file,), certify=False, selection_samples=samples),
        (Message("user", (None, _QUESTION)),),
        max_tokens=_TOKENS,
    )
    heard: list[float] = []

    def told(event: Said | Event) -> None:
        if isinstance(event, Said):
            heard.append(time.perf_counter())

    began = time.perf_counter()
    await core.answer(request, told)
    return 1000 * ((heard[0] if heard else time.perf_counter()) - began)


class _Bare:
    """The parts of the model, called one after the other, in milliseconds."""

    def __init__(self, model: LoadedModel, answerer: Answerer, most_pixels: int) -> None:
        self._model, self._answerer, self._most = model, answerer, most_pixels
        self._sampler = make_sampler(model)
        self._decoder = answerer.decoder()

    @torch.inference_mode()
    def first_token(self, file: bytes) -> float:
        """Of the model as published, from the picture's file on."""
        began = time.perf_counter()
        pipeline = self._model.pipeline
        levels = torch.from_numpy(self._x(file)).to(pipeline.device)[None]
        features = pipeline.encode(levels.float())
        prompt = self._answerer.prompter.write((Message("user", (None, _QUESTION)),), "prompt")
        maps = features.float().cpu().view(1, *self._answerer.shape)
        centre = self._answerer.centre
        shown = list(maps if centre is None else maps + centre)
        row = self._decoder.begin(prompt, shown, Generation(_TOKENS))
        self._decoder.leave(row)
        return 1000 * (time.perf_counter() - began)

    def draw(self, file: bytes, samples: int) -> float:
        """Of one call with so many noisy samples; the picture was decoded before."""
        x = self._x(file)
        began = time.perf_counter()
        noise = NoiseLevel(self._model.sigmas[0])
        self._sampler([Draw(x, noise, bytes(16), Stage.SELECT, 0, samples)])
        return 1000 * (time.perf_counter() - began)

    def _x(self, file: bytes) -> NDArray[np.uint8]:
        return preprocess(decode(file, self._most, "picture"), self._model.preprocessing)
