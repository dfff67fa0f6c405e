"""A reference (package name, folder or hub id) -> a `LoadedModel`, every digest verified.

Safetensors only. The embedded default is converted once, from its Python distribution to the cache.
"""

from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import ValidationError

from service.config import Settings
from service.errors import ConfigurationError
from service.models import packages
from service.models.arrangement import DTYPES, MEMORY_FORMATS
from service.models.converted import load_converted
from service.models.devices import choose_device
from service.models.encoder import Encoder
from service.models.hub import download, is_hub_id
from service.models.label_sets import load_label_sets
from service.models.loaded import LoadedModel
from service.models.open_clip import as_transformers, is_open_clip
from service.models.package_parts import load_parts, projector_file
from service.models.packages import DistributionSource, FolderSource, HubSource, Manifest
from service.models.pipeline import Parts, Pipeline
from service.models.revision import folder_digest, revision
from service.models.tuning import arrange
from service.types import Preprocessing

if TYPE_CHECKING:
    from service.models.answerer.answerer import Answerer
    from service.models.text import TextTower

DEFAULT_SIGMAS = (0.1, 0.25, 0.5, 1.0)


def stores(settings: Settings) -> list[Path]:
    """Where packages are looked for: the operator's store, then what was added on this machine."""
    return [settings.model_store, settings.cache_dir / "model_store"]


def load_model(reference: str, settings: Settings, measure: bool = False) -> LoadedModel:
    """Resolve, verify and load; the device is not warmed yet.

    Args:
        reference: package name, folder or hub id.
        settings: frozen.
        measure: choose the arrangement by measuring, where none is kept yet and a CPU is used.

    Raises:
        ConfigurationError: nothing of that name, a digest that differs, or an unsupported model.
    """
    manifest = resolve(reference, settings)
    encoder, folder, answerer = _load_encoder(manifest, settings)
    label_sets = load_label_sets(manifest, encoder, stores(settings))
    preprocessing = manifest.preprocessing.value()
    device = choose_device(settings.device)
    parts = Parts(encoder, *load_parts(manifest, encoder, stores(settings)))
    choice = arrange(parts, manifest, device, settings, measure)
    chosen = choice.arrangement
    dtype, layout = DTYPES[chosen.dtype], MEMORY_FORMATS[chosen.memory_format]

    def revision_at(batch_size: int) -> str:
        return revision(manifest, device.type, replace(chosen, batch_size=batch_size))

    return LoadedModel(
        name=manifest.name,
        revision=revision_at(chosen.batch_size),
        pipeline=Pipeline(parts, preprocessing, device, dtype, layout),
        preprocessing=preprocessing,
        sigmas=manifest.sigmas,
        batch_size=chosen.batch_size,
        lanes=chosen.lanes,
        revision_at=revision_at,
        threads=chosen.threads,
        tuning=choice.tuning,
        label_sets=label_sets,
        text=None if folder is None else _load_text(folder),
        psm=manifest.psm_digests,
        answerer=answerer,
    )


def resolve(reference: str, settings: Settings) -> Manifest:
    """The manifest behind a reference; for a folder or hub id, as `fcs models add` writes it."""
    if (folder := packages.find(stores(settings), reference)) is not None:
        return packages.read_manifest(folder)
    name, _, version = reference.partition("/")
    if version and (folder := packages.find(stores(settings), name)) is not None:
        raise ConfigurationError(
            f"package {name!r} has no version {version!r}; its newest is {folder.name}"
        )
    return describe_reference(reference, settings)


def describe_reference(
    reference: str,
    settings: Settings,
    name: str | None = None,
    sigmas: tuple[float, ...] | None = None,
) -> Manifest:
    """A new manifest for a Hugging Face folder or hub id: preprocessing derived, digest pinned.

    Raises:
        ConfigurationError: neither of the two, no safetensors, or a processor that fits no fixed x.
    """
    source: FolderSource | HubSource
    cache = settings.cache_dir / "converted"
    if (Path(reference) / "config.json").is_file() or is_open_clip(Path(reference)):
        folder = Path(reference).resolve()
        source = FolderSource(kind="folder", path=folder, sha256=folder_digest(folder))
    elif is_hub_id(reference):
        folder, commit = download(reference, None)
        source = HubSource(kind="hub", id=reference, commit=commit, sha256=folder_digest(folder))
    else:
        known = ", ".join(packages.names(stores(settings))) or "none"
        raise ConfigurationError(
            f"no model {reference!r}: it is neither a package (known: {known}), nor a folder with a"
            " config.json (or open_clip_config.json), nor a hub id like"
            " 'openai/clip-vit-base-patch32'"
        )
    try:
        return Manifest(
            name=name or Path(reference).name.lower(),
            version="1",
            description=f"Hugging Face encoder {reference}",
            licence="see the model's own page",
            encoder=source,
            preprocessing=packages.PreprocessingManifest(**asdict(_preprocessing(folder, cache))),
            sigmas=sigmas or DEFAULT_SIGMAS,
        )
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise ConfigurationError(f"{reference}: {where}: {first['msg']}") from error


def _preprocessing(folder: Path, cache: Path) -> Preprocessing:
    folder = as_transformers(folder, cache)
    from service.models.answerer.load import family_of
    from service.models.processors import load_preprocessing

    seeing = family_of(folder)
    if seeing is None:
        return load_preprocessing(folder)
    family, config = seeing
    return family.preprocessing(folder, config)


def _load_text(folder: Path) -> "TextTower | None":
    from service.models.text import load_text_tower

    return load_text_tower(folder)


def _load_encoder(
    manifest: Manifest, settings: Settings
) -> tuple[Encoder, Path | None, "Answerer | None"]:
    """The encoder, its Hugging Face folder if it has one, and its language if it has one."""
    source, cache = manifest.encoder, settings.cache_dir / "converted"
    if isinstance(source, DistributionSource):
        encoder = load_converted(source, cache)
        if manifest.answerer is None:
            return encoder, None, None
        from service.models.answerer.answerer import embedded_answerer

        projector = projector_file(manifest, stores(settings))
        size = manifest.preprocessing.value().size
        language = manifest.answerer.language
        eyes, answerer = embedded_answerer(encoder, language, projector, size, cache)
        return eyes, None, answerer
    # Imported here, as the hub client is below: the embedded default needs neither of them, and
    # starts in half the time without.
    from service.models.families import load_encoder

    if isinstance(source, HubSource):
        folder, _ = download(source.id, source.commit)
    else:
        folder = source.path
    found = folder_digest(folder)
    if found != source.sha256:
        raise ConfigurationError(
            f"package {manifest.name!r}: the weights in {folder} have digest {found}, the manifest"
            f" says {source.sha256}"
        )
    from service.models.answerer.load import family_of

    folder = as_transformers(folder, cache)
    if family_of(folder) is None:
        return load_encoder(folder), folder, None
    from service.models.answerer.answerer import load_answerer

    eyes, answerer = load_answerer(folder, manifest.preprocessing.value().size)
    return eyes, None, answerer
