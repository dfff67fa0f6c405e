"""`fcs bench`: every performance figure in the docs comes from here."""

from typing import Annotated

import typer

app = typer.Typer(help="Benchmarks: a table, then one JSON line.", no_args_is_help=True)


@app.callback()
def group() -> None:
    """Benchmarks: a table, then one JSON line."""


@app.command("shapes")
def shapes(
    model: Annotated[str | None, typer.Option(help="Package name, hub id or folder.")] = None,
    repeats: Annotated[int, typer.Option(min=3, help="Timed batches of each row.")] = 15,
) -> None:
    """Milliseconds a sample by dtype, batch shape and threads, with noise and reduction beside."""
    from service.bench.shapes import run
    from service.config import load_settings

    run(load_settings(model=model), repeats)
