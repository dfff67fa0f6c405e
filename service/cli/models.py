"""`fcs models list|show|add|add-labels|add-psm|add-answerer|prepare|activate|deactivate`."""

from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

from service.cli.arrangement import in_words
from service.cli.labels import add_labels
from service.cli.psm import add_answerer, add_psm
from service.cli.serving import activate, deactivate
from service.errors import ConfigurationError

app = typer.Typer(help="Model packages: what can be served.", no_args_is_help=True)
app.command("add-labels")(add_labels)
app.command("add-psm")(add_psm)
app.command("add-answerer")(add_answerer)
app.command("activate")(activate)
app.command("deactivate")(deactivate)


@app.command("list")
def list_() -> None:
    """List the packages of the model store and those added on this machine."""
    from service.config import load_settings
    from service.models import packages
    from service.models.store import stores

    settings = load_settings()
    table = Table(
        Column("name", no_wrap=True), "version", "encoder", "size", "sigmas", "description"
    )
    for name in packages.names(stores(settings)):
        folder = packages.find(stores(settings), name)
        if folder is None:
            continue
        try:
            manifest = packages.read_manifest(folder)
        except ConfigurationError as error:
            table.add_row(name, folder.name, "unreadable", "", "", escape(str(error)))
            continue
        height, width = manifest.preprocessing.value().size
        sigmas = ", ".join(f"{sigma:g}" for sigma in manifest.sigmas)
        table.add_row(
            manifest.name,
            manifest.version,
            manifest.encoder.kind,
            f"{height}x{width}",
            sigmas,
            manifest.description,
        )
    Console().print(table)


@app.command("show")
def show(reference: str) -> None:
    """Print the manifest behind a package name, folder or hub id, as JSON.

    How it would run here is told on standard error.
    """
    from service.config import load_settings
    from service.models.devices import choose_device
    from service.models.store import resolve
    from service.models.tuning import known

    settings = load_settings()
    manifest = resolve(reference, settings)
    choice = known(manifest, choose_device(settings.device), settings)
    typer.echo(manifest.model_dump_json(indent=2))
    typer.echo(f"here: {in_words(choice.arrangement, choice.tuning)}", err=True)


@app.command("prepare")
def prepare(
    model: Annotated[str | None, typer.Argument(help="Package name, hub id or folder.")] = None,
) -> None:
    """Fetch, verify, convert and measure models now, rather than at the first start.

    Without an argument, all that `fcs serve` would load.
    """
    from service.config import load_settings
    from service.models.store import load_model

    settings = load_settings(model=model)
    for reference in settings.models if model is None else (settings.model,):
        info = load_model(reference, settings, measure=True).info
        typer.echo(f"{info.name} is ready: {info.revision}\n  {in_words(info, info.tuning)}")


@app.command("add")
def add(
    reference: Annotated[str, typer.Argument(help="Hugging Face folder or hub id.")],
    name: Annotated[str | None, typer.Option(help="Name requests will use.")] = None,
    sigma: Annotated[list[float] | None, typer.Option(help="Noise level; repeat.")] = None,
) -> None:
    """Make a package of a Hugging Face vision encoder: weights' digest and preprocessing pinned.

    The encoder is loaded once, to be sure that it can be served.
    """
    from service.config import load_settings
    from service.models import packages
    from service.models.store import describe_reference, load_model, stores

    settings = load_settings()
    sigmas = tuple(sigma) if sigma else None
    manifest = describe_reference(reference, settings, name, sigmas)
    if packages.find(stores(settings), manifest.name) is not None:
        raise ConfigurationError(
            f"a package {manifest.name!r} exists already; choose another --name"
        )
    load_model(reference, settings)
    folder = packages.write_manifest(stores(settings)[-1], manifest)
    typer.echo(f"added {manifest.name}: {folder}\nserve it: fcs serve --model {manifest.name}")
