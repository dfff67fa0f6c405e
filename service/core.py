"""Admit -> submit -> await -> answer: the only door the transports know.

`Core` lives on one asyncio event loop. Pictures are decoded in worker threads; the engine's futures
bring the samples' results back. A caller that is cancelled or times out takes its jobs with it.
"""

import asyncio
import os
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from enum import Enum
from functools import partial

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from service import __version__, admission, answering, answers, classify
from service.access.gate import Gate
from service.answering import Shown
from service.asking import Asker
from service.attempt import Watch
from service.certificate.labels import LabelTally
from service.certificate.sequential import statistics_bytes
from service.config import Settings
from service.errors import (
    ConfigurationError,
    invalid,
    shown,
    unavailable,
)
from service.fleet import Fleet
from service.following import Following, Listener
from service.forecast import Forecast
from service.information import service_info
from service.job import Job, JobResult, Progress
from service.metrics import Metrics
from service.models.catalogue import load_models
from service.models.loaded import LoadedModel
from service.models.noise import SEED_BYTES, picture_seed
from service.models.platform import device_memory
from service.pictures.decode import decode
from service.pictures.preprocess import check_size, preprocess
from service.receipts.receipt import with_receipts
from service.receipts.signing import Signer
from service.reservations import Reservations
from service.speaking import Speaker
from service.types import (
    AnswerRequest,
    AnswerResult,
    ClassifyRequest,
    ClassifyResult,
    Embedding,
    EmbedRequest,
    EmbedResult,
    Event,
    Said,
    SamplingPlan,
    ServiceInfo,
)
from service.waiting import within

_DECODERS = 2


class State(Enum):
    """Where the service is in its life; the value is the reason a probe is told."""

    STARTING = "loading and warming the model"
    READY = "ready"
    DRAINING = "draining: no new work is accepted"
    STOPPED = "stopped"


@dataclass(frozen=True, slots=True)
class Health:
    """Whether new work is accepted, whether a restart is the only help, and why.

    Attributes:
        started: the first load is over, for good.
    """

    ready: bool
    alive: bool
    reason: str
    started: bool


class Core:
    """One service instance.

    Args:
        settings: frozen.
        metrics: shared with the transports, which count their requests in it.
        signer: of receipts; without one, requests that ask for a receipt are refused.
        measure: at the start, how each model runs best here, where that is not kept yet.

    Attributes:
        gate: which both doors pass before anything else.

    Raises:
        ConfigurationError: API keys that cannot be used.
    """

    def __init__(
        self,
        settings: Settings,
        metrics: Metrics | None = None,
        signer: Signer | None = None,
        measure: bool = False,
    ) -> None:
        self.settings = settings
        self._signer = signer
        self._measure = measure
        self.metrics = metrics or Metrics(__version__)
        self.gate = Gate(settings, self.metrics)
        self._started = False
        self._state = State.STARTING
        self._models: dict[str, LoadedModel] = {}
        self._default = ""
        self._fleet: Fleet | None = None
        self._speakers: dict[str, Speaker] = {}
        self._reservations = Reservations(
            settings,
            pending_samples=lambda: self._fleet.pending_samples if self._fleet else 0,
            forecast=Forecast(lambda: self._fleet.computed_per_second if self._fleet else 0.0),
        )
        self._decoders = ThreadPoolExecutor(_DECODERS, "fcs-decode")
        self._asker = Asker(settings, self.metrics, self._reservations, self, self._speakers)
        # One BLAS thread: statistics share the cores with the device thread, and spinning pools
        # of several threads stall each other.
        self._blas = threadpool_limits(limits=1, user_api="blas")

    async def start(self) -> None:
        """Load and warm every model, off the event loop; then new work is accepted.

        Raises:
            ConfigurationError: a model that cannot be loaded.
        """
        await asyncio.to_thread(self._load)
        self._state = State.READY
        self._started = True

    async def drain(self) -> None:
        """Refuse new work, answer what was accepted (bounded by `drain_ms`), stop the engine."""
        if self._state is State.STOPPED:
            return
        self._state = State.DRAINING
        if self._fleet is not None:
            until = time.monotonic() + self.settings.drain_ms / 1000
            while self._reservations.busy and time.monotonic() < until:
                await asyncio.sleep(0.02)
            await asyncio.to_thread(self._fleet.stop)
        for speaker in self._speakers.values():
            await asyncio.to_thread(speaker.stop)
        self._state = State.STOPPED
        self._decoders.shutdown(wait=False, cancel_futures=True)

    def health(self) -> Health:
        """Ready for new work; alive unless every device is lost, when only a restart helps."""
        if self._fleet is not None and (fault := self._fleet.fault) is not None:
            return Health(False, not self._fleet.lost, fault, self._started)
        return Health(self._state is State.READY, True, self._state.value, self._started)

    def info(self) -> ServiceInfo:
        """What clients may ask for.

        Raises:
            ServiceError: unavailable before the models are loaded.
        """
        if self._fleet is None:
            raise unavailable(self._state.value)
        return service_info(
            self.settings,
            tuple(self._fleet.model(name).info for name in self._models),
            self._fleet.devices,
            None if self._signer is None else self._signer.public_key,
        )

    def samples_of(self, request: EmbedRequest) -> int:
        """Samples that `embed` would draw for this request, all of its pictures together.

        Raises:
            ServiceError: as `embed` would, for what can be known before decoding.
        """
        _, model = self._admit(request)
        return len(request.images) * self.plan(request, model).total

    async def embed(
        self,
        request: EmbedRequest,
        progress: Progress | None = None,
        listener: Listener | None = None,
    ) -> EmbedResult:
        """Embed and certify every picture of a request, or fail as a whole.

        Args:
            request: from a transport.
            progress: called from a worker thread with the number of samples just computed.
            listener: told on the event loop that the request was accepted, and then of each
                checkpoint; never after the answer.

        Raises:
            ServiceError: any kind; nothing of the request keeps running afterwards.
        """
        result, _ = await self.sample(request, progress=progress, listener=listener)
        return result

    async def classify(self, request: ClassifyRequest) -> ClassifyResult:
        """The certified label of every picture of a request, or fail as a whole.

        Raises:
            ServiceError: any kind; nothing of the request keeps running afterwards.
        """
        arrived = time.monotonic()
        _, model = self._admit(request.embed)
        sampling = request.embed
        if sampling.target == "default":  # it serves the bounds, not the label
            sampling = replace(sampling, target=None)
        if not sampling.certify:
            raise invalid("a label comes with its certificate: certify must be true", "certify")
        if sampling.receipt:
            raise invalid("a receipt is of an embedding, not of a label: use embed", "receipt")
        plan = self.plan(sampling, model)
        limit = admission.timeout_s(sampling, self.settings)
        held = self._reservations.memory(classify.memory(request, model, plan.estimation))
        async with within(limit):
            with held:
                directions = await classify.directions(request, model)
                result, jobs = await self.sample(
                    sampling, make_watch=lambda: LabelTally(directions)
                )
                sampled = time.monotonic()
                # Whichever checkpoint ends the sampling, the label's alpha must cover it.
                alpha = (1 - plan.confidence) / len(plan.checkpoints)
                data = [
                    await asyncio.to_thread(
                        classify.answer, item, one.watch, plan.noise.sigma, alpha
                    )
                    for item, one in zip(result.data, jobs, strict=True)
                    if isinstance(one.watch, LabelTally)
                ]
        now = time.monotonic()
        statistics_ms = result.timing.statistics_ms + 1000 * (now - sampled)
        timing = replace(
            result.timing, statistics_ms=statistics_ms, total_ms=1000 * (now - arrived)
        )
        return ClassifyResult(result.model, result.revision, tuple(data), timing)

    async def answer(
        self,
        request: AnswerRequest,
        told: Callable[[Said | Event], None] | None = None,
    ) -> AnswerResult:
        """What a model with a language says about pictures (`service.asking`).

        Args:
            request: from a transport.
            told: called on the event loop when the request is accepted, and with each new piece of
                the answer's text.

        Raises:
            ServiceError: any kind; nothing of the request keeps running afterwards.
        """
        return await self._asker.answer(request, told)

    def answering_model(self, named: str | None) -> str:
        """The name of the model that would answer: the one named, or the first with a language.

        Raises:
            ServiceError: unavailable before the models are loaded.
        """
        default = self.info().default_model
        return named or answering.default_model(list(self._models.values())) or default

    @property
    def loaded(self) -> Mapping[str, LoadedModel]:
        """Every model, by name, the default first."""
        return self._models

    def model_of(self, request: EmbedRequest) -> LoadedModel:
        """The model that a request is for.

        Raises:
            ServiceError: unavailable, or invalid, naming the models there are.
        """
        return self._admit(request)[1]

    def check_budget(self, samples: int) -> None:
        """Whether the caller's key may draw so many, before any part of them is charged.

        Raises:
            ServiceError: rate; invalid where it never may.
        """
        self.gate.check_samples(samples)

    def plan(self, request: EmbedRequest, model: LoadedModel) -> SamplingPlan:
        """The sampling of a request, every number checked.

        Raises:
            ServiceError: invalid, naming the field and what is allowed.
        """
        return admission.plan(request, model.sigmas, self.settings, model.clean_samples)

    async def sample(
        self,
        request: EmbedRequest,
        *,
        progress: Progress | None = None,
        make_watch: Callable[[], Watch] | None = None,
        listener: Listener | None = None,
        shown: Shown | None = None,
        party: object = None,
    ) -> tuple[EmbedResult, list[JobResult]]:
        """As `embed`; and beside the answer, what came of each picture.

        Args:
            request: from a transport.
            progress: as for `embed`.
            make_watch: makes what is shown the features of a picture.
            listener: as for `embed`.
            shown: takes each embedding as soon as it is there, long before it is certified.
            party: the same for all that one client's request consists of: its parts do not stand
                in each other's way.
        """
        arrived = time.monotonic()
        fleet, model = self._admit(request)
        plan = self.plan(request, model)
        limit = admission.timeout_s(request, self.settings)
        pictures = len(request.images)
        height, width = model.preprocessing.size
        # What a picture's samples hold, and x itself, which the device holds too.
        held = statistics_bytes(plan, model.pipeline.dimensions) + 3 * height * width
        memory = pictures * held
        deadline = arrived + limit
        samples, early = pictures * plan.total, plan.target is not None
        with (
            self.gate.drawing(samples) as drawing,
            self._reservations.request(samples, pictures, memory, deadline, early, party) as share,
        ):
            async with within(limit):
                with self._reservations.decoding(samples):
                    images = await self._decode(model, request.images)
                following = None if listener is None else Following(plan, listener)
                # Image, counts and threshold rule are fixed now; only here is the noise drawn.
                jobs = [
                    Job(
                        model=model.name,
                        image=image,
                        plan=plan,
                        seed=_seed(request, i),
                        submitted=time.monotonic(),
                        deadline=deadline,
                        progress=progress
                        if following is None
                        else following.on_progress(i, progress),
                        make_watch=make_watch,
                        on_selected=None if shown is None else partial(shown.take, i),
                        on_look=None if following is None else following.on_look(i),
                    )
                    for i, image in enumerate(images)
                ]
                share.left = lambda: sum(job.outstanding for job in jobs if not job.abandoned)
                try:
                    results = await self._sample(fleet, jobs, following)
                finally:
                    share.spent = samples - sum(job.outstanding for job in jobs)
                    drawing.drawn = share.spent
                    if following is not None:
                        following.close()
                share.answered = True
                answer = await self._answer(request, jobs, results, arrived)
                return answer, results

    async def _sample(
        self, fleet: Fleet, jobs: list[Job], following: Following | None
    ) -> list[JobResult]:
        """The results of all jobs, from one revision of the model."""
        if following is not None:
            for i, job in enumerate(jobs):
                job.future.add_done_callback(following.on_finish(i))
        try:
            fleet.submit(jobs)
            if following is not None:
                following.accepted()
            results = await asyncio.gather(*(asyncio.wrap_future(job.future) for job in jobs))
        finally:
            for job in jobs:
                job.future.cancel()  # a no-op for those already answered
        if len({result.model.revision for result in results}) > 1:
            # A batch shape was halved in between: the answer names one revision, so all run again.
            jobs[:] = [job.again() for job in jobs]  # in place: the request's share counts them
            return await self._sample(fleet, jobs, following)
        return list(results)

    async def _answer(
        self, request: EmbedRequest, jobs: list[Job], results: list[JobResult], arrived: float
    ) -> EmbedResult:
        model, client_seed = results[0].model, request.seed is not None
        if jobs[0].plan.certify:
            spent = sum(r.verdict.findings.samples for r in results if r.verdict is not None)
            self.metrics.samples_per_request.observe(spent)
        items = tuple(
            answers.embedding(job, result, model, client_seed)
            for job, result in zip(jobs, results, strict=True)
        )
        items = await self._signed(request, model, [job.image for job in jobs], items)
        return answers.embed_result(model, items, results, arrived)

    async def _signed(
        self,
        request: EmbedRequest,
        model: LoadedModel,
        images: list[NDArray[np.uint8]],
        items: tuple[Embedding, ...],
    ) -> tuple[Embedding, ...]:
        """The items with their receipts, where they were asked for; off the event loop."""
        if not request.receipt or self._signer is None:
            return items
        how, now = model.preprocessing, int(time.time())
        return await asyncio.to_thread(
            with_receipts, items, images, model.info, how, self._signer, now
        )

    async def _decode(
        self, model: LoadedModel, images: tuple[bytes, ...]
    ) -> list[NDArray[np.uint8]]:
        """Decode one after another: a broken picture then costs no more than those before it."""
        loop = asyncio.get_running_loop()

        def to_tensor(data: bytes, param: str) -> NDArray[np.uint8]:
            limit = self.settings.max_pixels
            how = model.preprocessing
            began = time.perf_counter()
            image = decode(data, limit, param, lambda size: check_size(size, how, limit, param))
            pixels = preprocess(image, how)
            spent = time.perf_counter() - began
            self.metrics.phase_seconds.labels(phase="decode").inc(spent)
            return pixels

        return [
            await loop.run_in_executor(self._decoders, to_tensor, data, f"inputs[{i}]")
            for i, data in enumerate(images)
        ]

    def _admit(self, request: EmbedRequest) -> tuple[Fleet, LoadedModel]:
        health = self.health()
        if not health.ready or self._fleet is None:
            raise unavailable(health.reason)
        if request.receipt and self._signer is None:
            raise invalid("there is no key to sign a receipt with", "receipt")
        name = self._default if request.model is None else request.model
        if name not in self._models:
            known = ", ".join(sorted(self._models))
            raise invalid(f"unknown model {shown(name)}; loaded: {known}", "model")
        return self._fleet, self._models[name]

    def _load(self) -> None:
        models = load_models(self.settings, self._measure)
        fleet = Fleet(models, self.metrics, self.settings.device_timeout_ms / 1000)
        try:
            fleet.start()
        except Exception as error:
            raise ConfigurationError(f"the model failed its warm-up: {error}") from error
        self.metrics.pending_samples.set_function(lambda: fleet.pending_samples)
        self.metrics.jobs_running.set_function(lambda: fleet.running_jobs)
        self.metrics.device_memory.set_function(device_memory)
        self.metrics.answers_running.set_function(lambda: self._reservations.answers)
        self.metrics.pending_votes.set_function(
            lambda: sum(speaker.pending_votes for speaker in self._speakers.values())
        )
        self._fleet = fleet
        self._default = next(iter(models[0]))
        for name, one in models[0].items():
            if one.answerer is not None:
                speaker = Speaker(one.answerer, self.settings.max_answers, one.threads)
                speaker.start()
                self._speakers[name] = speaker
        self._models = models[0]


def _seed(request: EmbedRequest, picture: int) -> bytes:
    if request.seed is None:
        return os.urandom(SEED_BYTES)
    return picture_seed(bytes.fromhex(request.seed), picture)
