"""Admit -> submit -> await -> answer: the only door the transports know.

`Core` lives on one asyncio event loop. Pictures are decoded in worker threads; the engine's futures
bring the samples' results back. A caller that is cancelled or times out takes its jobs with it.
"""

import asyncio
import os
import time
from collections.abc import Callable, Coroutine, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from enum import Enum
from functools import partial
from typing import Any, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from service import __version__, admission, answering, answers, caller, classify, tracing, usage
from service.access.gate import Gate
from service.answering import Shown
from service.asking import Asker
from service.attempt import Watch
from service.audit import entries
from service.audit.log import AuditLog
from service.certificate.labels import LabelTally
from service.certificate.sequential import statistics_bytes
from service.config import Settings
from service.errors import invalid, shown, unavailable
from service.fleet import Fleet
from service.following import Following, Listener
from service.forecast import Forecast
from service.information import service_info
from service.job import Job, JobResult, Progress
from service.metrics import Metrics
from service.models.loaded import LoadedModel
from service.models.noise import SEED_BYTES, picture_seed
from service.models.platform import device_memory
from service.pictures.decode import decode
from service.pictures.preprocess import check_size, preprocess
from service.receipts.receipt import with_receipts
from service.receipts.signing import Signer
from service.reservations import Reservations
from service.serving import Changed, Serving, first_serving
from service.types import (
    AnswerRequest,
    AnswerResult,
    ClassifyRequest,
    ClassifyResult,
    Embedding,
    EmbedRequest,
    EmbedResult,
    Event,
    ModelInfo,
    Said,
    SamplingPlan,
    ServiceInfo,
)
from service.waiting import within

T = TypeVar("T")
_DECODERS = 2
_POLL_S = 0.02


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
        audit: where certificates are recorded before they are answered; it needs a signer.
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
        audit: AuditLog | None = None,
    ) -> None:
        self.settings = settings
        self._audit = audit
        self._signer = signer
        self._measure = measure
        self.metrics = metrics or Metrics(__version__)
        self.gate = Gate(settings, self.metrics)
        self._started = False
        self._state = State.STARTING
        self._servings: list[Serving] = []  # the present one last; the others end with their work
        self._changing = asyncio.Lock()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._reservations = Reservations(
            settings,
            pending_samples=lambda: sum(one.fleet.pending_samples for one in self._servings),
            forecast=Forecast(
                lambda: self._servings[-1].fleet.computed_per_second if self._servings else 0.0
            ),
        )
        self._decoders = ThreadPoolExecutor(_DECODERS, "fcs-decode")
        self._asker = Asker(settings, self.metrics, self._reservations, self)
        # One BLAS thread: statistics share the cores with the device thread, and spinning pools
        # of several threads stall each other.
        self._blas = threadpool_limits(limits=1, user_api="blas")

    async def start(self) -> None:
        """Load and warm every model, off the event loop; then new work is accepted.

        Raises:
            ConfigurationError: a model that cannot be loaded.
        """
        first = await asyncio.to_thread(first_serving, self.settings, self.metrics, self._measure)
        self._servings.append(first)
        self._tell_metrics()
        self._state = State.READY
        self._started = True

    async def drain(self) -> None:
        """Refuse new work, answer what was accepted (bounded by `drain_ms`), stop the engine."""
        if self._state is State.STOPPED:
            return
        self._state = State.DRAINING
        until = time.monotonic() + self.settings.drain_ms / 1000
        # A request holds its lease until its certificate is on record.
        while any(one.leased for one in self._servings) and time.monotonic() < until:
            await asyncio.sleep(_POLL_S)
        for serving in self._servings:
            await asyncio.to_thread(serving.stop)
        self._state = State.STOPPED
        self._decoders.shutdown(wait=False, cancel_futures=True)

    def health(self) -> Health:
        """Ready for new work; alive unless every device is lost, when only a restart helps."""
        started = self._started
        if self._servings and (fault := self._servings[-1].fleet.fault) is not None:
            return Health(False, not self._servings[-1].fleet.lost, fault, started)
        if self._state is State.READY and self._audit is not None and self._audit.fault:
            return Health(False, True, self._audit.fault, started)
        return Health(self._state is State.READY, True, self._state.value, started)

    def info(self) -> ServiceInfo:
        """What clients may ask for.

        Raises:
            ServiceError: unavailable before the models are loaded.
        """
        if not self._servings:
            raise unavailable(self._state.value)
        fleet, models = self._servings[-1].fleet, self._servings[-1].models
        return service_info(
            self.settings,
            tuple(fleet.model(name).info for name in models),
            fleet.devices,
            None if self._signer is None else self._signer.public_key,
        )

    async def activate(self, reference: str) -> ModelInfo:
        """Serve one model more, or one in place of that of the same name; no request is dropped.

        Requests that came before are answered by what they came to.

        Args:
            reference: package name, name/version, hub id or folder.

        Raises:
            ConfigurationError: it cannot be loaded; everything is served as before.
            ServiceError: unavailable, before the start and while draining.
        """
        return await self._change(lambda serving: serving.with_model(reference, self.settings))

    async def deactivate(self, name: str) -> ModelInfo:
        """Serve a model no more; requests that came before are answered.

        Raises:
            ConfigurationError: it is not served, or is the default.
            ServiceError: unavailable, before the start and while draining.
        """
        return await self._change(lambda serving: serving.without_model(name))

    @property
    def changing(self) -> bool:
        """A model is being loaded, or taken away."""
        return self._changing.locked()

    def samples_of(self, request: EmbedRequest) -> int:
        """Samples that `embed` would draw for this request, all of its pictures together.

        Raises:
            ServiceError: as `embed` would, for what can be known before decoding.
        """
        model = self.model_of(self._admitting(), request)
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
        with self._leased() as serving:
            result, _ = await self.sample(serving, request, progress=progress, listener=listener)
            if self._audit is None:
                return result
            await self._audit.record(entries.of_embeddings(result.data))
        if request.receipt:
            return result
        return replace(result, data=tuple(replace(item, receipt=None) for item in result.data))

    async def classify(self, request: ClassifyRequest) -> ClassifyResult:
        """The certified label of every picture of a request, or fail as a whole.

        Raises:
            ServiceError: any kind; nothing of the request keeps running afterwards.
        """
        with self._leased() as serving:
            return await self._classify(serving, request)

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
        with self._leased() as serving:
            result = await self._asker.answer(serving, request, told)
            if self._audit is not None:
                await self._audit.record(entries.of_answer(result))
            return result

    def answering_model(self, named: str | None) -> str:
        """The name of the model that would answer: the one named, or the first with a language.

        Raises:
            ServiceError: unavailable before the models are loaded.
        """
        default = self.info().default_model
        return named or answering.default_model(list(self.loaded.values())) or default

    @property
    def loaded(self) -> Mapping[str, LoadedModel]:
        """Every model, by name, the default first."""
        return self._servings[-1].models if self._servings else {}

    def model_of(self, serving: Serving, request: EmbedRequest) -> LoadedModel:
        """The model that a request is for.

        Raises:
            ServiceError: invalid, naming the models there are.
        """
        if request.receipt and self._signer is None:
            raise invalid("there is no key to sign a receipt with", "receipt")
        name = serving.default if request.model is None else request.model
        if name not in serving.models:
            known = ", ".join(sorted(serving.models))
            raise invalid(f"unknown model {shown(name)}; loaded: {known}", "model")
        return serving.models[name]

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
        serving: Serving,
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
            serving: leased for as long as this takes.
            request: from a transport.
            progress: as for `embed`.
            make_watch: makes what is shown the features of a picture.
            listener: as for `embed`.
            shown: takes each embedding as soon as it is there, long before it is certified.
            party: the same for all that one client's request consists of: its parts do not stand
                in each other's way.
        """
        arrived = time.monotonic()
        model = self.model_of(serving, request)
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
                with self._reservations.decoding(samples), tracing.span("decode"):
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
                        caller=caller.present(),
                        span=tracing.begin("sample", _told(i, model, plan)),
                    )
                    for i, image in enumerate(images)
                ]
                share.left = lambda: sum(job.outstanding for job in jobs if not job.abandoned)
                try:
                    results = await self._sample(serving.fleet, jobs, following)
                finally:
                    share.spent = samples - sum(job.outstanding for job in jobs)
                    usage.add_samples(share.spent)
                    for job in jobs:
                        job.end_span()
                    drawing.drawn = share.spent
                    if following is not None:
                        following.close()
                share.answered = True
                answer = await self._answer(request, jobs, results, arrived)
                return answer, results

    async def _classify(self, serving: Serving, request: ClassifyRequest) -> ClassifyResult:
        arrived = time.monotonic()
        model = self.model_of(serving, request.embed)
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
                    serving, sampling, make_watch=lambda: LabelTally(directions)
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
        if self._audit is not None:
            await self._audit.record(entries.of_labels(data, [one.receipt for one in result.data]))
        now = time.monotonic()
        statistics_ms = result.timing.statistics_ms + 1000 * (now - sampled)
        timing = replace(
            result.timing, statistics_ms=statistics_ms, total_ms=1000 * (now - arrived)
        )
        return ClassifyResult(result.model, result.revision, tuple(data), timing)

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
        """The items with their receipts, where they were asked for or are to be recorded.

        They are made off the event loop.
        """
        if self._signer is None or not (request.receipt or self._audit is not None):
            return items
        if items[0].certificate is None:
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

    def _admitting(self) -> Serving:
        """What new requests go to.

        Raises:
            ServiceError: unavailable.
        """
        health = self.health()
        if not health.ready or not self._servings:
            raise unavailable(health.reason)
        return self._servings[-1]

    @contextmanager
    def _leased(self) -> Iterator[Serving]:
        """What new requests go to, which stays until this one has ended."""
        serving = self._admitting()
        with serving.lease():
            yield serving

    async def _change(self, change: Callable[[Serving], Changed]) -> ModelInfo:
        """Serve other models, one change at a time; it goes on if who asked for it leaves.

        Returns:
            the model that came, or went.
        """
        made = self._beside(self._changed(change))
        return await asyncio.shield(made)

    async def _changed(self, change: Callable[[Serving], Changed]) -> ModelInfo:
        outcome: Literal["changed", "failed"] = "failed"
        try:
            async with self._changing:
                old = self._admitting()
                name, devices = await asyncio.to_thread(change, old)
                new = await asyncio.to_thread(Serving, devices, old, self.settings, self.metrics)
                if self._state is not State.READY:
                    await asyncio.to_thread(new.stop, self._servings)
                    raise unavailable(self._state.value)
                self._servings.append(new)
                outcome = "changed"
        finally:
            self.metrics.model_reloads.labels(outcome=outcome).inc()
        self._beside(self._retire(old))
        return (new.models if name in new.models else old.models)[name].info

    def _beside(self, work: Coroutine[Any, Any, T]) -> "asyncio.Task[T]":
        """A task that nobody need wait for; kept, so that it is not lost."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _retire(self, old: Serving) -> None:
        """End it with its last request."""
        while old.leased:
            await asyncio.sleep(_POLL_S)
        if self._state is State.READY:  # else all end together
            self._servings.remove(old)
            await asyncio.to_thread(old.stop, tuple(self._servings))

    def _tell_metrics(self) -> None:
        metrics, servings = self.metrics, self._servings
        metrics.pending_samples.set_function(lambda: sum(s.fleet.pending_samples for s in servings))
        metrics.jobs_running.set_function(lambda: sum(s.fleet.running_jobs for s in servings))
        metrics.device_memory.set_function(device_memory)
        metrics.answers_running.set_function(lambda: self._reservations.answers)
        metrics.pending_votes.set_function(
            lambda: sum(one.pending_votes for s in servings[-1:] for one in s.speakers.values())
        )


def _told(index: int, model: LoadedModel, plan: SamplingPlan) -> tracing.Attributes:
    """What a picture's span says of it from the start."""
    return {"fcs.index": index, "fcs.model": model.name, "fcs.planned": plan.total}


def _seed(request: EmbedRequest, picture: int) -> bytes:
    if request.seed is None:
        return os.urandom(SEED_BYTES)
    return picture_seed(bytes.fromhex(request.seed), picture)
