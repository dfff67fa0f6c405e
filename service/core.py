"""The service's life and its requests: the only door the transports know.

`Core` lives on one asyncio event loop. Each request leases what is served as it comes, one of three
flows answers it (`embedding`, `labelling`, `asking`), and its certificates are put on record.
"""

import asyncio
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from enum import Enum

from threadpoolctl import threadpool_limits

from service import __version__, answering
from service.access.gate import Gate
from service.asking import Asker
from service.audit import entries
from service.audit.log import AuditLog
from service.config import Settings
from service.embedding import Embedder
from service.errors import unavailable
from service.following import Listener, UntilRecorded
from service.forecast import Forecast
from service.information import service_info
from service.job import Progress
from service.labelling import Labeller
from service.metrics import Metrics
from service.models.loaded import LoadedModel
from service.models.platform import device_memory
from service.receipts.signing import Signer
from service.reservations import Reservations
from service.serving import Serving, first_serving
from service.succession import Succession
from service.types import (
    AnswerRequest,
    AnswerResult,
    ClassifyRequest,
    ClassifyResult,
    EmbedRequest,
    EmbedResult,
    Event,
    ModelInfo,
    Said,
    ServiceInfo,
)

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
        self.metrics = metrics or Metrics(__version__)
        self.gate = Gate(settings, self.metrics)
        self._signer, self._audit, self._measure = signer, audit, measure
        self._started, self._state = False, State.STARTING
        self._servings = Succession(settings, self.metrics)
        self._reservations = Reservations(
            settings,
            pending_samples=lambda: self._servings.pending_samples,
            forecast=Forecast(lambda: self._servings.computed_per_second),
        )
        self._embedder = Embedder(
            settings, self.metrics, self._reservations, self.gate, signer, audit is not None
        )
        self._labeller = Labeller(settings, self._reservations, self._embedder)
        self._asker = Asker(settings, self.metrics, self._reservations, self._embedder)
        # One BLAS thread: statistics share the cores with the device thread, and spinning pools
        # of several threads stall each other.
        self._blas = threadpool_limits(limits=1, user_api="blas")

    async def start(self) -> None:
        """Load and warm every model, off the event loop; then new work is accepted.

        Raises:
            ConfigurationError: a model that cannot be loaded.
        """
        first = await asyncio.to_thread(first_serving, self.settings, self.metrics, self._measure)
        self._servings.begin(first)
        self._tell_metrics()
        self._state = State.READY
        self._started = True

    async def drain(self) -> None:
        """Refuse new work, answer what was accepted (bounded by `drain_ms`), stop the engine."""
        if self._state is State.STOPPED:
            return
        self._state = State.DRAINING
        self._servings.close(self._state.value)
        until = time.monotonic() + self.settings.drain_ms / 1000
        # A request holds its lease until its certificate is on record.
        while self._servings.leased and time.monotonic() < until:
            await asyncio.sleep(_POLL_S)
        await self._servings.end()
        self._state = State.STOPPED
        self._embedder.close()

    def health(self) -> Health:
        """Ready for new work; alive unless every device is lost, when only a restart helps."""
        started, present = self._started, self._servings.present
        if present is not None and (fault := present.fleet.fault) is not None:
            return Health(False, not present.fleet.lost, fault, started)
        if self._state is State.READY and self._audit is not None and self._audit.fault:
            return Health(False, True, self._audit.fault, started)
        return Health(self._state is State.READY, True, self._state.value, started)

    def info(self) -> ServiceInfo:
        """What clients may ask for.

        Raises:
            ServiceError: unavailable before the models are loaded.
        """
        if (present := self._servings.present) is None:
            raise unavailable(self._state.value)
        return service_info(
            self.settings,
            tuple(present.fleet.model(name).info for name in present.models),
            present.fleet.devices,
            None if self._signer is None else self._signer.public_key,
        )

    @property
    def loaded(self) -> Mapping[str, LoadedModel]:
        """Every model, by name, the default first."""
        present = self._servings.present
        return {} if present is None else present.models

    async def activate(self, reference: str) -> ModelInfo:
        """Serve one model more, or one in place of that of the same name; no request is dropped.

        Requests that came before are answered by what they came to.

        Args:
            reference: package name, name/version, hub id or folder.

        Raises:
            ConfigurationError: it cannot be loaded; everything is served as before.
            ServiceError: unavailable, before the start and while draining.
        """
        model = await self._servings.change(
            lambda serving: serving.with_model(reference, self.settings), self._admitting
        )
        return model.info

    async def deactivate(self, name: str) -> ModelInfo:
        """Serve a model no more; requests that came before are answered.

        Raises:
            ConfigurationError: it is not served, or is the default.
            ServiceError: unavailable, before the start and while draining.
        """
        model = await self._servings.change(
            lambda serving: serving.without_model(name), self._admitting
        )
        return model.info

    @property
    def changing(self) -> bool:
        """A model is being loaded, or taken away."""
        return self._servings.changing

    def samples_of(self, request: EmbedRequest) -> int:
        """Samples that `embed` would draw for this request, all of its pictures together.

        Raises:
            ServiceError: as `embed` would, for what can be known before decoding.
        """
        model = self._embedder.model_of(self._admitting(), request)
        return len(request.images) * self._embedder.plan(request, model).total

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
            kept = None if listener is None or self._audit is None else UntilRecorded(listener)
            result, _ = await self._embedder.embed(
                serving, request, progress=progress, listener=kept or listener
            )
            if self._audit is None:
                return result
            await self._audit.record(entries.of_embeddings(result.data))
            if kept is not None:
                kept.release()
        if request.receipt:
            return result
        return replace(result, data=tuple(replace(item, receipt=None) for item in result.data))

    async def classify(self, request: ClassifyRequest) -> ClassifyResult:
        """The certified label of every picture of a request, or fail as a whole.

        Raises:
            ServiceError: any kind; nothing of the request keeps running afterwards.
        """
        with self._leased() as serving:
            result, receipts = await self._labeller.classify(serving, request)
            if self._audit is not None:
                await self._audit.record(entries.of_labels(result.data, receipts))
            return result

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
            kept = None if told is None or self._audit is None else UntilRecorded(told)
            result = await self._asker.answer(serving, request, kept or told)
            if self._audit is not None:
                await self._audit.record(entries.of_answer(result))
            if kept is not None:
                kept.release()
            return result

    def answering_model(self, named: str | None) -> str:
        """The name of the model that would answer: the one named, or the first with a language.

        Raises:
            ServiceError: unavailable before the models are loaded.
        """
        default = self.info().default_model
        return named or answering.default_model(list(self.loaded.values())) or default

    def _admitting(self) -> Serving:
        """What new requests go to.

        Raises:
            ServiceError: unavailable.
        """
        health, present = self.health(), self._servings.present
        if not health.ready or present is None:
            raise unavailable(health.reason)
        return present

    @contextmanager
    def _leased(self) -> Iterator[Serving]:
        """What new requests go to, which stays until this one has ended."""
        serving = self._admitting()
        with serving.lease():
            yield serving

    def _tell_metrics(self) -> None:
        metrics, servings = self.metrics, self._servings
        metrics.pending_samples.set_function(lambda: servings.pending_samples)
        metrics.jobs_running.set_function(lambda: servings.running_jobs)
        metrics.device_memory.set_function(device_memory)
        metrics.answers_running.set_function(lambda: self._reservations.answers)
        metrics.pending_votes.set_function(lambda: servings.pending_votes)
