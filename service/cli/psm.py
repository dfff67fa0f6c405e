"""`fcs models add-psm` and `add-answerer`: packages of an encoder and its trained parts."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from service.models.assembly import Ingredients


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
    from service.models.assembly import Ingredients

    ingredients = Ingredients(name, purifier, diffusion, mapper, tuple(sigma or ()), transferred)
    _assemble(ingredients, model, store)


def add_answerer(
    name: Annotated[str, typer.Argument(help="Name requests will use.")],
    projector: Annotated[
        Path, typer.Option(help="File, or folder of its training run.", exists=True)
    ],
    purifier: Annotated[
        Path, typer.Option(help="That it was trained behind: file, or folder.", exists=True)
    ],
    model: Annotated[
        str | None,
        typer.Option(help="The encoder: package name, hub id or folder; else the embedded one."),
    ] = None,
    mapper: Annotated[
        Path | None,
        typer.Option(help="Of its token maps: file, or folder of its run.", exists=True),
    ] = None,
    sigma: Annotated[
        list[float] | None,
        typer.Option(help="Noise level; repeat. Default: those the parts were trained for."),
    ] = None,
    store: Annotated[
        Path | None, typer.Option(help="Where to; default: this machine's own store.")
    ] = None,
) -> None:
    """Make a package that answers questions in the embedded language.

    It is loaded once, to be sure that it can be served.
    """
    from service.models.assembly import Ingredients

    levels = tuple(sigma or ())
    ingredients = Ingredients(name, purifier, None, mapper, levels, False, projector)
    _assemble(ingredients, model, store)


def _assemble(ingredients: "Ingredients", model: str | None, store: Path | None) -> None:
    from service.config import encoder_settings
    from service.models.assembly import assemble
    from service.models.store import stores

    settings, name = encoder_settings(model), ingredients.name
    where = store or stores(settings)[-1]
    folder = assemble(settings, ingredients, where)
    known = where in stores(settings)
    place = "" if known else f"FCS_MODEL_STORE={where} "
    typer.echo(f"added {name}: {folder}\nserve it: {place}fcs serve --model {name}")
