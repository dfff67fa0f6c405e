"""Which models are served now, and which were: one serving after another, no request dropped.

A request leases the present serving and keeps it to its end; one that was replaced ends with the
last of its requests. On the core's event loop.
"""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, Literal, TypeVar

from service.config import Settings
from service.errors import unavailable
from service.metrics import Metrics
from service.models.loaded import LoadedModel
from service.serving import Changed, Serving

T = TypeVar("T")
_POLL_S = 0.02


class Succession:
    """The servings of one core.

    Args:
        settings: frozen.
        metrics: of the core.
    """

    def __init__(self, settings: Settings, metrics: Metrics) -> None:
        self._settings, self._metrics = settings, metrics
        self._servings: list[Serving] = []  # the present one last; the others end with their work
        self._changing = asyncio.Lock()
        self._closed: str | None = None  # why nothing may change any more
        self._tasks: set[asyncio.Task[Any]] = set()

    @property
    def present(self) -> Serving | None:
        """What new requests go to; None before the first."""
        return self._servings[-1] if self._servings else None

    @property
    def pending_samples(self) -> int:
        """Of all of them."""
        return sum(one.fleet.pending_samples for one in self._servings)

    @property
    def running_jobs(self) -> int:
        """Of all of them."""
        return sum(one.fleet.running_jobs for one in self._servings)

    @property
    def pending_votes(self) -> int:
        """Of the present one's languages, which it shares with those before."""
        present = self._servings[-1:]
        return sum(speaker.pending_votes for one in present for speaker in one.speakers.values())

    @property
    def computed_per_second(self) -> float:
        """Samples of the present one; 0 before the first."""
        return self._servings[-1].fleet.computed_per_second if self._servings else 0.0

    @property
    def leased(self) -> bool:
        """Some have requests."""
        return any(one.leased for one in self._servings)

    @property
    def changing(self) -> bool:
        """Another is being made."""
        return self._changing.locked()

    def begin(self, first: Serving) -> None:
        """Serve the first."""
        self._servings.append(first)

    async def change(
        self, change: Callable[[Serving], Changed], admitting: Callable[[], Serving]
    ) -> LoadedModel:
        """Serve other models, one change at a time; it goes on if who asked for it leaves.

        Args:
            change: what is to be served, of what is.
            admitting: the present serving, or it raises; asked when this change's turn has come.

        Returns:
            the model that came, or went.

        Raises:
            ConfigurationError: it cannot be; everything is served as before.
            ServiceError: unavailable, closed meanwhile.
        """
        return await asyncio.shield(self._beside(self._changed(change, admitting)))

    def close(self, reason: str) -> None:
        """Nothing changes any more; all end together."""
        self._closed = reason

    async def end(self) -> None:
        """End all of them, whatever they still do."""
        for serving in self._servings:
            await asyncio.to_thread(serving.stop)

    async def _changed(
        self, change: Callable[[Serving], Changed], admitting: Callable[[], Serving]
    ) -> LoadedModel:
        outcome: Literal["changed", "failed"] = "failed"
        try:
            async with self._changing:
                old = admitting()
                name, devices = await asyncio.to_thread(change, old)
                new = await asyncio.to_thread(Serving, devices, old, self._settings, self._metrics)
                if self._closed is not None:
                    await asyncio.to_thread(new.stop, self._servings)
                    raise unavailable(self._closed)
                self._servings.append(new)
                outcome = "changed"
        finally:
            self._metrics.model_reloads.labels(outcome=outcome).inc()
        self._beside(self._retire(old))
        return (new.models if name in new.models else old.models)[name]

    async def _retire(self, old: Serving) -> None:
        """End it with its last request."""
        while old.leased:
            await asyncio.sleep(_POLL_S)
        if self._closed is None:
            self._servings.remove(old)
            await asyncio.to_thread(old.stop, tuple(self._servings))

    def _beside(self, work: Coroutine[Any, Any, T]) -> "asyncio.Task[T]":
        """A task that nobody need wait for; kept, so that it is not lost."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task
