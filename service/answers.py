"""A job and its result -> the picture's answer, as every door returns it."""

import time
from collections.abc import Sequence

from service.certificate.statement import statement
from service.job import Job, JobResult
from service.models.loaded import LoadedModel
from service.types import Certificate, Embedding, EmbedResult, Timing


def embedding(job: Job, result: JobResult, model: LoadedModel, client_seed: bool) -> Embedding:
    """The embedding and, where one was asked, its certificate."""
    values = result.embedding.astype("<f4").tobytes()
    if result.verdict is None or result.fidelity is None:
        return Embedding(values, None)
    plan, findings = job.plan, result.verdict.findings
    certificate = Certificate(
        bounds=findings.bounds,
        certified_radius=findings.certified_radius,
        gaussian_robustness_score=findings.score,
        fidelity=result.fidelity,
        sigma=plan.noise.sigma,
        confidence=plan.confidence,
        selection_samples=plan.selection,
        estimation_samples=findings.samples,
        target=plan.target,
        checkpoints=plan.checkpoints,
        stopped=result.verdict.stopped,
        space=model.space,
        seed=job.seed.hex(),
        client_seed=client_seed,
        statement=statement(findings.bounds, plan.confidence, model.space, client_seed),
    )
    return Embedding(values, certificate)


def embed_result(
    model: LoadedModel,
    items: tuple[Embedding, ...],
    results: Sequence[JobResult],
    arrived: float,
) -> EmbedResult:
    """The answer to a whole request that `arrived` at that monotonic second."""
    return EmbedResult(
        model=model.name,
        revision=model.revision,
        data=items,
        timing=Timing(
            queue_ms=1000 * max(result.queue_s for result in results),
            device_ms=1000 * sum(result.device_s for result in results),
            statistics_ms=1000 * sum(result.statistics_s for result in results),
            total_ms=1000 * (time.monotonic() - arrived),
        ),
    )
