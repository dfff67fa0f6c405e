"""`fcs models add-labels PACKAGE SET FOLDER`: few-shot label directions from pictures."""

from pathlib import Path
from typing import Annotated

import typer

from service.cli.progress import progress_bar
from service.errors import ConfigurationError


def add_labels(
    package: Annotated[str, typer.Argument(help="Package name, or name/version.")],
    name: Annotated[str, typer.Argument(help="Name of the label set, as requests will use it.")],
    folder: Annotated[Path, typer.Argument(help="One sub-folder a label, with its pictures.")],
    sigma: Annotated[
        float | None, typer.Option(help="Noise level it is for; the model's default.")
    ] = None,
) -> None:
    """Make a label set of a package from a few pictures of each label.

    Each label's direction is the mean of its pictures' smoothed embeddings. The set is kept in this
    machine's store; the package itself is never changed. A running server finds it at its next
    start.
    """
    from service.admission import default_sigma
    from service.config import load_settings
    from service.models import packages
    from service.models.label_sets import check_new, write_label_set
    from service.models.prototypes import pictures_by_label, prototypes
    from service.models.store import load_model, stores

    settings = load_settings()
    found = packages.find(stores(settings), package)
    if found is None:
        known = ", ".join(packages.names(stores(settings))) or "none"
        raise ConfigurationError(
            f"no package {package!r} (known: {known}); make one first: fcs models add"
        )
    manifest = packages.read_manifest(found)
    if sigma is not None and sigma not in manifest.sigmas:
        allowed = ", ".join(f"{s:g}" for s in manifest.sigmas)
        raise ConfigurationError(f"sigma {sigma:g} is not a noise level of {package}: {allowed}")
    level = default_sigma(manifest.sigmas, settings) if sigma is None else sigma
    store = stores(settings)[-1]
    check_new(stores(settings), manifest, name)
    pictures = pictures_by_label(folder)
    with progress_bar() as progress:
        loading = progress.add_task("loading the model", total=None)
        model = load_model(package, settings)
        progress.remove_task(loading)
        task = progress.add_task("pictures", total=sum(map(len, pictures.values())))
        directions = prototypes(
            pictures, model, level, settings.max_pixels, lambda: progress.advance(task)
        )
    written = write_label_set(store, manifest, name, list(pictures), directions)
    typer.echo(
        f"added label set {name!r} of {len(pictures)} labels, for sigma {level:g}: {written}\n"
        f'ask for it: POST /classify with "label_set": "{name}"'
    )
