"""`fcs data list|fetch`: open picture sets to train and to evaluate on."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Column, Table

app = typer.Typer(help="Open picture sets of package registries.", no_args_is_help=True)


@app.command("list")
def list_() -> None:
    """List the sets, where each comes from, and its licence."""
    from service.datasets.sets import SETS

    table = Table(Column("name", no_wrap=True), "registry", "package", "version", "licence")
    for found in SETS.values():
        table.add_row(found.name, found.registry, found.package, found.version, found.licence)
    Console().print(table)


@app.command("fetch")
def fetch(
    names: Annotated[list[str], typer.Argument(help="Names of `fcs data list`.")],
    to: Annotated[Path, typer.Option(help="Each set gets its own folder below this.")] = Path(
        "build/sets"
    ),
) -> None:
    """Download sets, check their digests, and unpack the pictures."""
    from service.datasets.fetch import fetch as get
    from service.datasets.sets import picture_set

    for wanted in [picture_set(name) for name in names]:
        typer.echo(f"{wanted.name}: {get(wanted, to)} ({wanted.licence})")
