"""`fcs ask IMAGE "question"`: an answer offline, with what is certified of what was shown."""

import asyncio
import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer


def ask(
    image: Annotated[Path, typer.Argument(help="A picture.", exists=True, dir_okay=False)],
    question: Annotated[str, typer.Argument(help="About it.")],
    model: Annotated[
        str | None, typer.Option(help="Package name, hub id or folder of a model that answers.")
    ] = None,
    sigma: Annotated[float | None, typer.Option(help="Noise level of the model.")] = None,
    answer_samples: Annotated[
        int | None, typer.Option(help="Draws whose mean the language is shown.")
    ] = None,
    radius: Annotated[list[float] | None, typer.Option(help="l2 radius epsilon; repeat.")] = None,
    max_tokens: Annotated[int | None, typer.Option(help="Of the answer.")] = None,
    temperature: Annotated[float | None, typer.Option(help="0: the likeliest each time.")] = None,
    choice: Annotated[
        list[str] | None, typer.Option(help="One of the only answers there are; repeat.")
    ] = None,
    votes: Annotated[int | None, typer.Option(help="Draws that vote on a choice.")] = None,
    certify: Annotated[bool, typer.Option(help="Certify what the language was shown.")] = True,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON line.")] = False,
) -> None:
    """Ask about a picture and print the answer as it is spoken."""
    from service.config import DEFAULT_ANSWERER, load_settings
    from service.core import Core
    from service.types import AnswerRequest, AnswerResult, EmbedRequest, Event, Message, Said

    settings = load_settings(
        model=model or DEFAULT_ANSWERER, max_timeout_ms=10**9, default_timeout_ms=10**9
    ).model_copy(update={"extra_models": ()})
    request = AnswerRequest(
        embed=EmbedRequest(
            images=(image.read_bytes(),),
            sigma=sigma,
            radii=tuple(radius) if radius else None,
            selection_samples=answer_samples,
            certify=certify,
        ),
        messages=(Message("user", (None, question)),),
        max_tokens=max_tokens,
        temperature=temperature,
        choices=tuple(choice or ()),
        votes=votes,
    )

    def told(event: Said | Event) -> None:
        if isinstance(event, Said) and not as_json:
            typer.echo(event.text, nl=False)

    async def answered() -> AnswerResult:
        core = Core(settings)
        await core.start()
        try:
            return await core.answer(request, told)
        finally:
            await core.drain()

    result = asyncio.run(answered())
    if as_json:
        typer.echo(json.dumps(asdict(result)))
        return
    typer.echo()
    for certificate in result.certificates:
        typer.echo(f"\n{certificate.statement}")
    typer.echo(result.statement)
    if (vote := result.vote) is not None:
        counts = ", ".join(f"{one.text} {one.votes}" for one in vote.choices)
        typer.echo(f"\nVotes of {vote.draws} draws: {counts}.\n{vote.statement}")
