"""`fcs models add-psm`: a package of an encoder between its trained purifier and mapper."""

from pathlib import Path
from typing import Annotated

import typer


def add_psm(
    name: Annotated[str, typer.Argument(help="Name requests will use.")],
    model: Annotated[
        str | None,
        typer.Option(help="The encoder: package name, hub id or folder; else the embedded one."),
    ] = None,
    purifier: Annotated[
        Path | None, typer.Option(help="File, or folder of its training run.", exists=True)
    ] = None,
    diffusion: Annotated[
        str | None,
        typer.Option(help="Instead: a diffusers UNet2DModel, hub id or folder."),
    ] = None,
    mapper: Annotated[
        Path | None, typer.Option(help="File, or folder of its training run.", exists=True)
    ] = None,
    sigma: Annotated[
        list[float] | None, typer.Option(help="Noise level; repeat. Default: those trained for.")
    ] = None,
    transferred: Annotated[
        bool, typer.Option(help="They were trained for another encoder, on purpose.")
    ] = False,
    store: Annotated[
        Path | None, typer.Option(help="Where to; default: this machine's own store.")
    ] = None,
) -> None:
    """Make a package that serves an encoder with its purifier, mapper, or both.

    It is loaded once, to be sure that it can be served.
    """
    from service.config import encoder_settings
    from service.models.assembly import Ingredients, assemble
    from service.models.store import stores

    settings = encoder_settings(model)
    ingredients = Ingredients(name, purifier, diffusion, mapper, tuple(sigma or ()), transferred)
    where = store or stores(settings)[-1]
    folder = assemble(settings, ingredients, where)
    known = where in stores(settings)
    place = "" if known else f"FCS_MODEL_STORE={where} "
    typer.echo(f"added {name}: {folder}\nserve it: {place}fcs serve --model {name}")
