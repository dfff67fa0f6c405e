"""Samples made and encoded on the device: 8-bit picture and sample names in, unit features out.

Noise, pipeline and normalisation are one fixed shape, so that CUDA replays them as one graph: a
single launch, no allocation. Each lane has its own buffers, graph and stream; with two lanes one
batch is prepared and copied while the other computes. What a CPU can run of it, without the graph,
is tested on the CPU (tests/models/test_device_sampler.py); the graph itself needs CUDA.
"""

import threading
import time
import weakref
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from service.models.device_noise import WORDS, grid_noise, sample_words
from service.models.loaded import LoadedModel
from service.models.noise import told_sigma
from service.models.sampler import Draw, Sampled, is_out_of_memory
from service.types import Stage

_CHUNK = 32  # rows of noise made at a time: its intermediate values are 64 bits each
_WARM_UP = 3  # eager calls before the graph is recorded
_recording = threading.Lock()  # of one graph at a time in this process


@dataclass(slots=True)
class _Buffers:
    """One lane's memory: host side pinned where there is CUDA, device side of one shape."""

    host_words: Tensor
    host_sigmas: Tensor
    host_told: Tensor
    host_features: Tensor
    host_norms: Tensor
    pictures: Tensor  # uint8 [batch, 3, H, W]
    words: Tensor
    sigmas: Tensor  # of the noise, in pixel levels
    told: Tensor  # what purifier and mapper are told, RGB in [0, 1]
    found: tuple[Tensor, Tensor] | None = None  # features and norms
    graph: "torch.cuda.CUDAGraph | None" = None
    stream: "torch.cuda.Stream | None" = None


class DeviceSampler:
    """Noise and pipeline on one device; safe to call in several lanes at once.

    Args:
        model: its batch size is the most samples of a call.
    """

    def __init__(self, model: LoadedModel) -> None:
        self._model = model
        self._device = model.pipeline.device
        self._cuda = self._device.type == "cuda"
        self._own = threading.local()
        self._pictures: dict[int, tuple[weakref.ref[NDArray[np.uint8]], Tensor]] = {}
        self._lock = threading.Lock()

    def __call__(self, draws: Sequence[Draw]) -> Sampled:
        """The features of all samples of the draws, at most one batch."""
        began = time.perf_counter()
        own = self._buffers()
        if own.stream is None:
            spoiled, rows = self._fill(own, draws)
            self._compute(own)
        else:
            with torch.cuda.stream(own.stream):
                spoiled, rows = self._fill(own, draws)
                self._compute(own)
                own.stream.synchronize()
        features = own.host_features[:rows].numpy().copy()
        norms = own.host_norms[:rows].numpy().copy()
        return Sampled(features, norms, tuple(spoiled), 0.0, time.perf_counter() - began)

    def _fill(
        self, own: _Buffers, draws: Sequence[Draw]
    ) -> tuple[list[tuple[int, Exception]], int]:
        """The inputs of a call; rows without a sample have no noise."""
        own.host_sigmas.zero_()
        own.host_told.zero_()
        row, spoiled = 0, []
        for i, draw in enumerate(draws):
            rows = slice(row, row + draw.count)
            row += draw.count
            try:
                own.pictures[rows] = self._on_device(draw.image)
            except Exception as error:
                if is_out_of_memory(error):
                    raise  # no fault of the picture
                spoiled.append((i, error))
                continue
            words = sample_words(draw.seed, draw.stage, draw.first, draw.count)
            own.host_words[rows] = torch.from_numpy(words)
            if draw.stage is not Stage.CLEAN:
                own.host_sigmas[rows] = draw.noise.sigma_levels
            indices = range(draw.first, draw.first + draw.count)
            told = [told_sigma(draw.noise, draw.stage, index) for index in indices]
            own.host_told[rows] = torch.tensor(told)
        own.words.copy_(own.host_words, non_blocking=True)
        own.sigmas.copy_(own.host_sigmas, non_blocking=True)
        own.told.copy_(own.host_told, non_blocking=True)
        return spoiled, row

    def _compute(self, own: _Buffers) -> None:
        if own.graph is not None:
            own.graph.replay()
            found = own.found
        else:
            found = self._sample(own)
        if found is not None:
            own.host_features.copy_(found[0], non_blocking=True)
            own.host_norms.copy_(found[1], non_blocking=True)

    @torch.inference_mode()
    def _sample(self, own: _Buffers) -> tuple[Tensor, Tensor]:
        """Features [batch, d] and norms [batch] from what the buffers hold."""
        shape = own.pictures.shape
        levels = own.pictures.float()
        for first in range(0, len(levels), _CHUNK):
            rows = slice(first, first + _CHUNK)
            noise = grid_noise(own.words[rows], own.sigmas[rows], shape[1:].numel())
            levels[rows] += noise.view(-1, *shape[1:])
        return self._model.pipeline.sample(levels, own.told)

    def _on_device(self, image: NDArray[np.uint8]) -> Tensor:
        """The picture's 8-bit values on the device; copied there once, for as long as it lives."""
        key = id(image)
        with self._lock:
            held = self._pictures.get(key)
            if held is not None and held[0]() is image:
                return held[1]
        if image.shape != (3, *self._model.preprocessing.size):
            raise ValueError(f"a picture of shape {image.shape}")
        copy = torch.from_numpy(image).to(self._device, copy=True)
        reference = weakref.ref(image, lambda _: self._pictures.pop(key, None))
        with self._lock:
            self._pictures[key] = (reference, copy)
        return copy

    def _buffers(self) -> _Buffers:
        """This lane's; made, and its graph recorded, at its first call."""
        if hasattr(self._own, "buffers"):
            found: _Buffers = self._own.buffers
            return found
        batch, length = self._model.batch_size, self._model.pipeline.dimensions
        pin, device = self._cuda, self._device
        own = _Buffers(
            host_words=torch.zeros(batch, WORDS, dtype=torch.int64, pin_memory=pin),
            host_sigmas=torch.zeros(batch, dtype=torch.float64, pin_memory=pin),
            host_told=torch.zeros(batch, pin_memory=pin),
            host_features=torch.empty(batch, length, pin_memory=pin),
            host_norms=torch.empty(batch, pin_memory=pin),
            pictures=torch.zeros(
                batch, 3, *self._model.preprocessing.size, dtype=torch.uint8, device=device
            ),
            words=torch.zeros(batch, WORDS, dtype=torch.int64, device=device),
            sigmas=torch.zeros(batch, dtype=torch.float64, device=device),
            told=torch.zeros(batch, device=device),
        )
        if self._cuda:
            self._record(own)
        self._own.buffers = own
        return own

    def _record(self, own: _Buffers) -> None:
        own.stream = torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]
        with _recording, torch.cuda.device(self._device):
            with torch.cuda.stream(own.stream):
                for _ in range(_WARM_UP):
                    self._sample(own)
                own.stream.synchronize()
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, stream=own.stream, capture_error_mode="thread_local"):
                own.found = self._sample(own)
            own.graph = graph
