"""Pictures -> certified labels: the directions of a request, sampling, and what each proves.

On the core's event loop; `service.classify` has the parts.
"""

import asyncio
import time
from dataclasses import replace

from service import admission, classify
from service.certificate.labels import LabelTally
from service.config import Settings
from service.embedding import Embedder
from service.errors import invalid
from service.reservations import Reservations
from service.serving import Serving
from service.types import ClassifyRequest, ClassifyResult
from service.waiting import within


class Labeller:
    """Labels of one core.

    Args:
        settings: frozen.
        reservations: of the core.
        embedder: of the core.
    """

    def __init__(self, settings: Settings, reservations: Reservations, embedder: Embedder) -> None:
        self._settings, self._reservations = settings, reservations
        self._embedder = embedder

    async def classify(
        self, serving: Serving, request: ClassifyRequest
    ) -> tuple[ClassifyResult, list[str | None]]:
        """The certified label of every picture of a request; and the receipts of their embeddings.

        Args:
            serving: leased for as long as this takes.
            request: from a transport.

        Raises:
            ServiceError: any kind; nothing of the request keeps running afterwards.
        """
        arrived = time.monotonic()
        model = self._embedder.model_of(serving, request.embed)
        sampling = request.embed
        if sampling.target == "default":  # it serves the bounds, not the label
            sampling = replace(sampling, target=None)
        if not sampling.certify:
            raise invalid("a label comes with its certificate: certify must be true", "certify")
        if sampling.receipt:
            raise invalid("a receipt is of an embedding, not of a label: use embed", "receipt")
        plan = self._embedder.plan(sampling, model)
        limit = admission.timeout_s(sampling, self._settings)
        held = self._reservations.memory(classify.memory(request, model, plan.estimation))
        async with within(limit):
            with held:
                directions = await classify.directions(request, model)
                result, jobs = await self._embedder.embed(
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
        now = time.monotonic()
        statistics_ms = result.timing.statistics_ms + 1000 * (now - sampled)
        timing = replace(
            result.timing, statistics_ms=statistics_ms, total_ms=1000 * (now - arrived)
        )
        labelled = ClassifyResult(result.model, result.revision, tuple(data), timing)
        return labelled, [one.receipt for one in result.data]
