"""A receipt, computed again: the same picture, model, seed and counts through a core of its own."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, replace

from service.certificate.statement import statement
from service.config import Settings, load_settings
from service.core import Core
from service.errors import invalid
from service.models.devices import cuda_is_usable
from service.models.revision import revision
from service.models.store import resolve
from service.receipts.compare import Difference, circumstances, differences
from service.receipts.receipt import Receipt, content
from service.types import Arrangement, Embedding, EmbedRequest, ModelInfo, Target

_FOREVER_MS = 10**9


@dataclass(frozen=True, slots=True)
class Replay:
    """What came out otherwise, and in what this machine is not the receipt's, in words."""

    differences: list[Difference]
    notes: list[str]


def replay(
    receipt: Receipt,
    picture: bytes,
    progress: Callable[[int], None],
    reference: str | None = None,
    device: str | None = None,
) -> Replay:
    """Load the model, draw the receipt's own noise again, compare every value.

    Args:
        receipt: as read.
        picture: the encoded file; its digest was compared already.
        progress: called from a worker thread with the number of samples just computed.
        reference: where the model is; None looks for a package of the receipt's name.
        device: "cpu" or "cuda"; None takes the receipt's, or the CPU where there is none such.

    Raises:
        ServiceError: invalid, when the model of that name is another one.
        ConfigurationError: there is no such model or device here.
    """
    made = receipt.model
    usable = made.device if made.device == "cpu" or cuda_is_usable() else "cpu"
    settings = load_settings(
        model=reference or made.name,
        device=device or usable,
        dtype=made.dtype,
        memory_format=made.memory_format,
        batch_size=made.batch_size,
        threads=made.threads,
        allow_client_seed=True,
        max_timeout_ms=_FOREVER_MS,
        default_timeout_ms=_FOREVER_MS,
    ).model_copy(update={"extra_models": (), "default_sigma": None})
    manifest = resolve(settings.model, settings)
    arrangement = Arrangement(made.dtype, made.memory_format, made.batch_size, 1, made.threads)
    if revision(manifest, made.device, arrangement) != made.revision:
        raise invalid(
            f"the model {manifest.name} here is not the one of this receipt: its weights, those of"
            " its purifier or mapper, its preprocessing or the version of the noise differ"
        )
    answer, info = asyncio.run(_embed(settings, _request(receipt, picture), progress))
    preprocessing = manifest.preprocessing.value()
    again = content(_as_signed(receipt, answer), receipt.picture, info, preprocessing)
    return Replay(differences(receipt, again), circumstances(receipt, again))


def _request(receipt: Receipt, picture: bytes) -> EmbedRequest:
    certificate = receipt.certificate
    target = certificate.target
    return EmbedRequest(
        images=(picture,),
        sigma=certificate.sigma,
        radii=tuple(bound.radius for bound in certificate.bounds),
        samples=certificate.checkpoints[-1],
        selection_samples=certificate.samples.selection,
        confidence=certificate.confidence,
        target=None if target is None else Target(target.radius, target.bound),
        seed=certificate.seed,  # the picture's own, and this one is the first of its request
    )


async def _embed(
    settings: Settings, request: EmbedRequest, progress: Callable[[int], None]
) -> tuple[Embedding, ModelInfo]:
    core = Core(settings)
    try:
        await core.start()
        result = await core.embed(request, progress)
        return result.data[0], core.info().models[0]
    finally:
        await core.drain()


def _as_signed(receipt: Receipt, answer: Embedding) -> Embedding:
    """The replay chose its seed, the service may have drawn it: that alone is no difference."""
    again = answer.certificate
    if again is None:
        raise RuntimeError("a certificate was asked for")
    chosen = receipt.certificate.client_seed
    sentence = statement(again.bounds, again.confidence, again.space, chosen)
    return replace(answer, certificate=replace(again, client_seed=chosen, statement=sentence))
