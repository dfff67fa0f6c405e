"""Pictures -> certified features: decode, plan, draw the noise, sample, sign.

    request -> plan -> reserved -> decoded -> one job a picture -> results -> embeddings

On the core's event loop; pictures are decoded in threads of their own, and the engine's futures
bring the samples' results back. A caller that is cancelled or times out takes its jobs with it.
"""

import asyncio
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
from numpy.typing import NDArray

from service import admission, answers, caller, tracing, usage
from service.access.gate import Gate
from service.answering import Shown
from service.attempt import Watch
from service.certificate.sequential import statistics_bytes
from service.config import Settings
from service.errors import invalid, shown, unavailable
from service.fleet import Fleet
from service.following import Following, Listener
from service.job import Job, JobResult, Progress
from service.metrics import Metrics
from service.models.loaded import LoadedModel
from service.models.noise import SEED_BYTES, picture_seed
from service.pictures.decode import decode
from service.pictures.preprocess import check_size, preprocess
from service.receipts.receipt import with_receipts
from service.receipts.signing import Signer
from service.reservations import Reservations
from service.serving import Serving
from service.types import Embedding, EmbedRequest, EmbedResult, SamplingPlan
from service.waiting import within

_DECODERS = 2
_CLOSED = "the service is shutting down"


class Embedder:
    """Embeddings of one core, with their certificates.

    Args:
        settings: frozen.
        metrics: of the core.
        reservations: of the core.
        gate: of the core; it charges what is drawn to the caller's key.
        signer: of receipts; without one, requests that ask for a receipt are refused.
        recorded: every certificate is to have a receipt, asked for or not.
    """

    def __init__(
        self,
        settings: Settings,
        metrics: Metrics,
        reservations: Reservations,
        gate: Gate,
        signer: Signer | None,
        recorded: bool,
    ) -> None:
        self._settings, self._metrics = settings, metrics
        self._reservations, self._gate = reservations, gate
        self._signer, self._recorded = signer, recorded
        self._decoders = ThreadPoolExecutor(_DECODERS, "fcs-decode")
        self._closed = False

    def close(self) -> None:
        """No picture is decoded any more; those that wait for it are refused."""
        self._closed = True
        self._decoders.shutdown(wait=False, cancel_futures=True)

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
        self._gate.check_samples(samples)

    def plan(self, request: EmbedRequest, model: LoadedModel) -> SamplingPlan:
        """The sampling of a request, every number checked.

        Raises:
            ServiceError: invalid, naming the field and what is allowed.
        """
        return admission.plan(request, model.sigmas, self._settings, model.clean_samples)

    async def embed(
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
        """Embed and certify every picture of a request; and beside the answer, what came of each.

        Args:
            serving: leased for as long as this takes.
            request: from a transport.
            progress: called from a worker thread with the number of samples just computed.
            make_watch: makes what is shown the features of a picture.
            listener: told on the event loop that the request was accepted, and then of each
                checkpoint; never after the answer.
            shown: takes each embedding as soon as it is there, long before it is certified.
            party: the same for all that one client's request consists of: its parts do not stand
                in each other's way.
        """
        arrived = time.monotonic()
        model = self.model_of(serving, request)
        plan = self.plan(request, model)
        limit = admission.timeout_s(request, self._settings)
        pictures = len(request.images)
        height, width = model.preprocessing.size
        # What a picture's samples hold, and x itself, which the device holds too.
        held = statistics_bytes(plan, model.pipeline.dimensions) + 3 * height * width
        memory = pictures * held
        deadline = arrived + limit
        samples, early = pictures * plan.total, plan.target is not None
        with (
            self._gate.drawing(samples) as drawing,
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
            self._metrics.samples_per_request.observe(spent)
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
        if self._signer is None or not (request.receipt or self._recorded):
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

        def to_tensor(data: bytes, param: str) -> NDArray[np.uint8]:
            limit = self._settings.max_pixels
            how = model.preprocessing
            began = time.perf_counter()
            image = decode(data, limit, param, lambda size: check_size(size, how, limit, param))
            pixels = preprocess(image, how)
            spent = time.perf_counter() - began
            self._metrics.phase_seconds.labels(phase="decode").inc(spent)
            return pixels

        return [
            await self._in_thread(partial(to_tensor, data, f"inputs[{i}]"))
            for i, data in enumerate(images)
        ]

    async def _in_thread(self, work: Callable[[], NDArray[np.uint8]]) -> NDArray[np.uint8]:
        """What a decoding thread makes.

        Raises:
            ServiceError: unavailable, closed before a thread came to it.
        """
        if self._closed:
            raise unavailable(_CLOSED)
        try:
            return await asyncio.wrap_future(self._decoders.submit(work))
        except asyncio.CancelledError as error:
            task = asyncio.current_task()
            if self._closed and task is not None and not task.cancelling():
                raise unavailable(_CLOSED) from error
            raise


def _told(index: int, model: LoadedModel, plan: SamplingPlan) -> tracing.Attributes:
    """What a picture's span says of it from the start."""
    return {"fcs.index": index, "fcs.model": model.name, "fcs.planned": plan.total}


def _seed(request: EmbedRequest, picture: int) -> bytes:
    if request.seed is None:
        return os.urandom(SEED_BYTES)
    return picture_seed(bytes.fromhex(request.seed), picture)
