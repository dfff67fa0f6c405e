"""Purifier and mapper of a package, each verified to be meant for its encoder and levels."""

from collections.abc import Sequence
from pathlib import Path

from service.errors import ConfigurationError
from service.models.distributions import sha256
from service.models.encoder import Encoder
from service.models.hub import download
from service.models.mapper import Mapper, shape_for
from service.models.packages import DiffusersFolder, DiffusersHub, Manifest, PartFile
from service.models.psm import Expected, Part, check, load_mapper, load_unet, read_part
from service.models.purifier import Purifier


def load_parts(
    manifest: Manifest, encoder: Encoder, stores: Sequence[Path]
) -> tuple[Purifier | None, Mapper | None]:
    """Both, or None for what the package does not have.

    Args:
        manifest: of the package.
        encoder: whose features are mapped.
        stores: where its files may be.

    Raises:
        ConfigurationError: a file that is damaged or missing, or was made for something else.
    """
    if (psm := manifest.psm) is None:
        return None, None
    pixels = manifest.preprocessing.value()
    expected = Expected(manifest.encoder.sha256, manifest.sigmas, pixels, psm.transferred)
    purifier: Purifier | None = None
    mapper: Mapper | None = None
    digest = None if psm.purifier is None else psm.purifier.sha256
    if isinstance(psm.purifier, PartFile):
        file = _part_file(manifest, psm.purifier, stores)
        purifier, part = load_unet(file)
        check(file, part, expected)
    elif psm.purifier is not None:
        purifier = _load_diffusers(manifest, psm.purifier)
    if psm.mapper is not None:
        file = _part_file(manifest, psm.mapper, stores)
        mapper, part = load_mapper(file)
        check(file, part, expected)
        check_mapper(file, mapper, part, encoder, manifest, digest)
    return purifier, mapper


def check_mapper(
    file: Path,
    mapper: Mapper,
    part: Part,
    encoder: Encoder,
    manifest: Manifest,
    purifier: str | None,
) -> None:
    """Refuse a mapper of other features than these.

    Args:
        file: of the mapper.
        mapper: loaded from it.
        part: what it says of itself.
        encoder: whose features are mapped.
        manifest: of its package.
        purifier: digest of the one in front of it; None: none.

    Raises:
        ConfigurationError: of another shape, or behind another projector or purifier.
    """
    (wide, grid), wanted = (mapper.config.dimensions, mapper.config.grid), shape_for(encoder)
    if (wide, grid) != wanted:
        raise ConfigurationError(
            f"{file} maps features of {_in_words(wide, grid)}, this encoder's have"
            f" {_in_words(*wanted)}"
        )
    projector = None if manifest.answerer is None else manifest.answerer.projector.sha256
    for what, trained, here in (
        ("projector", part.projector, projector),
        ("purifier", part.purifier, purifier),
    ):
        if trained != here:
            raise ConfigurationError(
                f"{file} was trained behind the {what} {trained}, this package has {here}"
            )


def _in_words(dimensions: int, grid: tuple[int, int] | None) -> str:
    tokens = "" if grid is None else f" at {grid[0]} x {grid[1]} places"
    return f"{dimensions} dimensions{tokens}"


def projector_file(manifest: Manifest, stores: Sequence[Path]) -> Path:
    """Of a package with a language, its projector verified to be meant for encoder and language.

    Raises:
        ConfigurationError: it is damaged or missing, or was made for something else.
    """
    if (answerer := manifest.answerer) is None:
        raise ConfigurationError(f"package {manifest.name!r} has no language")
    file = _part_file(manifest, answerer.projector, stores)
    part = read_part(file)
    transferred = manifest.psm is not None and manifest.psm.transferred
    pixels = manifest.preprocessing.value()
    # It is shown means of whatever noise: which levels it was trained with binds nobody.
    check(file, part, Expected(manifest.encoder.sha256, (), pixels, transferred))
    if part.language != answerer.language.sha256:
        raise ConfigurationError(
            f"{file} was trained for a language with digest {part.language}, the package's has"
            f" {answerer.language.sha256}"
        )
    return file


def _part_file(manifest: Manifest, part: PartFile, stores: Sequence[Path]) -> Path:
    for store in stores:
        file = store / manifest.name / manifest.version / part.file
        if file.is_file():
            if (found := sha256(file)) != part.sha256:
                raise ConfigurationError(
                    f"{file} has digest {found}, the manifest says {part.sha256}"
                )
            return file
    raise ConfigurationError(f"package {manifest.name!r} lacks its file {part.file}")


def _load_diffusers(manifest: Manifest, source: DiffusersFolder | DiffusersHub) -> Purifier:
    from service.models.diffusion import diffusion_digest, load_diffusion

    if isinstance(source, DiffusersHub):
        folder, _ = download(source.id, source.commit)
    else:
        folder = source.path
    if (found := diffusion_digest(folder)) != source.sha256:
        raise ConfigurationError(
            f"package {manifest.name!r}: the purifier in {folder} has digest {found}, the manifest"
            f" says {source.sha256}"
        )
    return load_diffusion(folder)
