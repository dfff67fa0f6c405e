"""Protobuf messages <-> the transport-free values."""

from array import array
from dataclasses import asdict
from typing import Literal, TypeVar

import numpy as np
from google.protobuf.message import DecodeError, Message
from google.protobuf.unknown_fields import UnknownFieldSet

from service import types
from service.conversations import conversation
from service.errors import ServiceError, invalid
from service.rpc.errors import MAX_MESSAGE, STATUS
from service.rpc.generated import fcs_pb2 as pb

M = TypeVar("M", bound=Message)
_MOST_PARTS = 50_000  # messages inside a message: five times the references of a request


def parse(kind: type[M], data: bytes) -> M:
    """Bytes -> message of one kind.

    Raises:
        ServiceError: invalid, for bytes that are no such message or fields this version does not
            know, which would otherwise be ignored in silence.
    """
    try:
        message = kind.FromString(data)
    except DecodeError as error:
        raise invalid(f"not a {kind.DESCRIPTOR.full_name}: {error}") from error
    _refuse_unknown(message, _MOST_PARTS)
    return message


def _refuse_unknown(message: Message, left: int) -> int:
    """How many parts may follow, of so many."""
    # The stubs forget that the set can be iterated.
    for unknown in UnknownFieldSet(message):  # type: ignore[attr-defined]
        name = message.DESCRIPTOR.full_name
        raise invalid(f"unknown field number {unknown.field_number} in {name}")
    for field, value in message.ListFields():
        if field.type == field.TYPE_MESSAGE:
            parts = [value] if isinstance(value, Message) else value
            left -= len(parts)
            if left < 0:
                raise invalid(f"over {_MOST_PARTS} parts in one message", field.name)
            for part in parts:
                left = _refuse_unknown(part, left)
    return left


def classify_request(
    message: pb.ClassifyRequest, remaining_s: float | None, most_s: float
) -> types.ClassifyRequest:
    """The request; its pictures and timeouts as in `embed_request`."""
    references = tuple(types.Reference(r.id, array("d", r.embedding)) for r in message.references)
    return types.ClassifyRequest(
        embed=embed_request(message.embed, remaining_s, most_s),
        labels=tuple(message.labels) or None,
        template=message.template if message.HasField("template") else None,
        label_set=message.label_set if message.HasField("label_set") else None,
        references=references or None,
    )


def classify_response(result: types.ClassifyResult) -> pb.ClassifyResponse:
    """The answer; no label where it abstained."""
    return pb.ClassifyResponse(
        model=result.model,
        revision=result.revision,
        data=[
            pb.Classification(
                index=i,
                label=item.label,
                score=item.score,
                certified_radius=item.certified_radius,
                abstained=item.abstained,
                candidates=[pb.Candidate(label=c.label, score=c.score) for c in item.candidates],
                certificate=_certificate(item.certificate),
                statement=item.statement,
            )
            for i, item in enumerate(result.data)
        ],
        timing=_timing(result.timing),
    )


def answer_request(
    message: pb.AnswerRequest, remaining_s: float | None, most_s: float
) -> types.AnswerRequest:
    """The request; its pictures and timeouts as in `embed_request`.

    Raises:
        ServiceError: invalid, where prompt, messages and pictures do not fit together.
    """

    def given(name: str) -> bool:
        return message.HasField(name)  # type: ignore[arg-type]  # checked by protobuf at run time

    embed = embed_request(message.embed, remaining_s, most_s)
    told = [types.Message(m.role, tuple(_part(p) for p in m.parts)) for m in message.messages]
    return types.AnswerRequest(
        embed=embed,
        messages=conversation(message.prompt if given("prompt") else None, told, len(embed.images)),
        max_tokens=message.max_tokens if given("max_tokens") else None,
        temperature=message.temperature if given("temperature") else None,
        top_p=message.top_p if given("top_p") else None,
        stop=tuple(message.stop),
        generation_seed=message.generation_seed if given("generation_seed") else None,
        stability_draws=message.stability_draws,
        choices=tuple(message.choices),
        votes=message.votes if given("votes") else None,
    )


def _part(part: pb.Part) -> str | None:
    return part.text if part.HasField("text") else None


def answer_result(result: types.AnswerResult) -> pb.AnswerResponse:
    """The last message of an answer."""
    return pb.AnswerResponse(
        result=pb.AnswerResult(
            model=result.model,
            revision=result.revision,
            answer=result.answer,
            finish_reason=result.finish,
            certificates=[_certificate(one) for one in result.certificates],
            joint=[pb.BoundSoFar(radius=b.radius, bound=b.bound) for b in result.joint],
            joint_confidence=result.joint_confidence,
            statement=result.statement,
            prompt_tokens=result.prompt_tokens,
            answer_tokens=result.answer_tokens,
            timing=_timing(result.timing),
            stability=None
            if result.stability is None
            else pb.Stability(**asdict(result.stability)),
            vote=None if result.vote is None else pb.Vote(**asdict(result.vote)),
        )
    )


def embed_request(
    message: pb.EmbedRequest, remaining_s: float | None, most_s: float
) -> types.EmbedRequest:
    """The request; the shorter of its own timeout and the call's deadline counts.

    Args:
        message: parsed.
        remaining_s: until the call's deadline, None if it has none.
        most_s: the limit; a farther deadline is cut to it, never refused, since clients may always
            set one. A timeout over it is left for admission to refuse.
    """

    def given(name: str) -> bool:
        return message.HasField(name)  # type: ignore[arg-type]  # checked by protobuf at run time

    timeout_s = message.timeout_ms / 1000 if given("timeout_ms") else None
    if remaining_s is not None and (timeout_s is None or 0 < timeout_s <= most_s):
        deadline_s = min(max(remaining_s, 0.001), most_s)
        timeout_s = deadline_s if timeout_s is None else min(timeout_s, deadline_s)
    return types.EmbedRequest(
        images=tuple(message.images),
        model=message.model if given("model") else None,
        profile=message.profile if given("profile") else None,
        certify=message.certify if given("certify") else True,
        sigma=message.sigma if given("sigma") else None,
        radii=tuple(message.radii) or None,
        samples=message.samples if given("samples") else None,
        selection_samples=message.selection_samples if given("selection_samples") else None,
        confidence=message.confidence if given("confidence") else None,
        target=_target(message),
        receipt=message.receipt,
        priority=message.priority,
        timeout_s=timeout_s,
        seed=message.seed if given("seed") else None,
    )


def _target(message: pb.EmbedRequest) -> types.Target | Literal["default"] | None:
    if message.HasField("target"):
        if message.no_target:
            raise invalid("target and no_target contradict each other: send one", "no_target")
        return types.Target(message.target.radius, message.target.bound)
    return None if message.no_target else "default"


def embed_response(result: types.EmbedResult) -> pb.EmbedResponse:
    """The answer, embeddings as packed floats."""
    return pb.EmbedResponse(
        model=result.model,
        revision=result.revision,
        data=[_embedding(i, item) for i, item in enumerate(result.data)],
        timing=_timing(result.timing),
    )


def stream_event(event: types.Checkpoint | types.Drawn) -> pb.EmbedStreamResponse:
    """News of one picture; the id is left to the caller."""
    samples = pb.Samples(selection=event.selection, estimation=event.estimation)
    if isinstance(event, types.Drawn):
        planned = pb.Samples(selection=event.planned_selection, estimation=event.planned_estimation)
        return pb.EmbedStreamResponse(
            drawn=pb.Drawn(index=event.index, samples=samples, planned=planned)
        )
    return pb.EmbedStreamResponse(
        checkpoint=pb.Checkpoint(
            index=event.index,
            samples=samples,
            bounds=[pb.BoundSoFar(radius=b.radius, bound=b.bound) for b in event.bounds],
            target=_target_message(event.target),
            reached=event.reached,
            stopped=event.stopped,
        )
    )


def stream_error(error: ServiceError) -> pb.StreamError:
    """What a request of a stream gets where a call of its own would have been aborted."""
    retry_after_ms = None if error.retry_after_s is None else round(1000 * error.retry_after_s)
    return pb.StreamError(
        code=STATUS[error.kind].value[0],
        message=error.message[:MAX_MESSAGE],
        param=error.param,
        retry_after_ms=retry_after_ms,
    )


def _timing(timing: types.Timing) -> pb.Timing:
    return pb.Timing(
        queue_ms=timing.queue_ms,
        device_ms=timing.device_ms,
        statistics_ms=timing.statistics_ms,
        total_ms=timing.total_ms,
    )


def info_response(info: types.ServiceInfo) -> pb.InfoResponse:
    """What the service offers."""
    return pb.InfoResponse(
        version=info.version,
        default_model=info.default_model,
        devices=info.devices,
        models=[
            pb.Model(
                name=model.name,
                revision=model.revision,
                dimensions=model.dimensions,
                sigmas=model.sigmas,
                space=_space(model.space),
                device=model.device,
                dtype=model.dtype,
                batch_size=model.batch_size,
                lanes=model.lanes,
                threads=model.threads,
                memory_format=model.memory_format,
                tuning=pb.Tuning(
                    source=model.tuning.source,
                    ms_per_sample=model.tuning.ms_per_sample,
                    note=model.tuning.note,
                ),
                platform=model.platform,
                label_sets=[pb.LabelSet(name=s.name, size=s.size) for s in model.label_sets],
                text_labels=model.text_labels,
                psm=model.psm,
                answers=model.answers,
            )
            for model in info.models
        ],
        profiles={name: _defaults(one) for name, one in info.profiles.items()},
        limits=info.limits,
        defaults=_defaults(info.defaults),
        client_seed_allowed=info.client_seed_allowed,
        public_key=info.public_key,
    )


def _defaults(defaults: types.Defaults) -> pb.Defaults:
    return pb.Defaults(
        sigma=defaults.sigma,
        radii=defaults.radii,
        samples=defaults.samples,
        selection_samples=defaults.selection_samples,
        confidence=defaults.confidence,
        timeout_ms=defaults.timeout_ms,
        target=_target_message(defaults.target),
    )


def _embedding(index: int, item: types.Embedding) -> pb.Embedding:
    values = np.frombuffer(item.values, "<f4")
    certificate = None if item.certificate is None else _certificate(item.certificate)
    return pb.Embedding(
        index=index, embedding=values, certificate=certificate, receipt=item.receipt
    )


def _certificate(certificate: types.Certificate) -> pb.Certificate:
    score, fidelity = certificate.gaussian_robustness_score, certificate.fidelity
    radius = certificate.certified_radius
    return pb.Certificate(
        bounds=[
            pb.RadiusBound(
                radius=b.radius,
                bound=b.bound,
                served_bound=b.served_bound,
                paper=b.paper,
                method=b.method,
            )
            for b in certificate.bounds
        ],
        certified_radius=pb.CertifiedRadius(threshold=radius.threshold, radius=radius.radius),
        gaussian_robustness_score=pb.Score(estimate=score.estimate, lower=score.lower),
        fidelity=pb.Fidelity(pipeline=fidelity.pipeline, encoder=fidelity.encoder),
        sigma=certificate.sigma,
        confidence=certificate.confidence,
        samples=pb.Samples(
            selection=certificate.selection_samples, estimation=certificate.estimation_samples
        ),
        target=_target_message(certificate.target),
        checkpoints=certificate.checkpoints,
        stopped=certificate.stopped,
        space=_space(certificate.space),
        seed=certificate.seed,
        client_seed=certificate.client_seed,
        statement=certificate.statement,
    )


def _target_message(target: types.Target | None) -> pb.Target | None:
    return None if target is None else pb.Target(radius=target.radius, bound=target.bound)


def _space(space: types.Space) -> pb.Space:
    return pb.Space(
        height=space.height,
        width=space.width,
        channels=space.channels,
        range=space.range,
        norm=space.norm,
    )
